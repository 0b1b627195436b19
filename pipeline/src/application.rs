//! Where operators' programs run: in the application's root, confined as its services are.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use enclave_init::users::{Login, Users};
use rustix::process::{getgid, getuid};
use sys::pid1::Launch;

use crate::{
    reply::{Code, Refusal},
    request::{Program, Run, Setting, Shell, Terminal},
};

/// The search path of an image that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shell of a user for whom the image names none that works.
const DEFAULT_SHELL: &str = "/bin/sh";

/// Where and as whom programs run unless a request says otherwise.
#[derive(Clone, Debug)]
pub struct Application {
    /// What programs see as `/`, and where paths of transfers begin.
    pub root: PathBuf,
    /// Programs are confined to the root, under a user of the image. Otherwise they run as this process does, with the
    /// root only as the place of files: for trying the server out without privilege, never in an enclave.
    pub confined: bool,
    /// Variables that every program gets, those of the main service in an enclave.
    pub env: Vec<(OsString, OsString)>,
    /// The directory programs start in, as they see it.
    pub workdir: PathBuf,
    /// As whom they run: `name`, `uid`, `name:group` or `uid:gid`.
    pub user: String,
}

impl Application {
    /// How to start what `run` names.
    ///
    /// # Errors
    /// [`Code::CannotStart`] for a user that the image does not have.
    pub(crate) fn run(&self, run: &Run) -> Result<Launch, Refusal> {
        self.launch(Some(&run.program), &run.setting, run.terminal.as_ref())
    }

    /// How to start a shell.
    ///
    /// # Errors
    /// As [`Application::run`].
    pub(crate) fn shell(&self, shell: &Shell) -> Result<Launch, Refusal> {
        self.launch(shell.program.as_ref(), &shell.setting, Some(&shell.terminal))
    }

    fn launch(
        &self,
        program: Option<&Program>,
        setting: &Setting,
        terminal: Option<&Terminal>,
    ) -> Result<Launch, Refusal> {
        let workdir = setting.cwd.as_ref().map_or_else(|| self.workdir.clone(), |cwd| text(cwd).into());
        let refused = |error: &dyn std::fmt::Display| Refusal::new(Code::CannotStart, error.to_string());
        let users = Users::read(&self.root).map_err(|error| refused(&error))?;
        let user = setting.user.as_deref().unwrap_or(&self.user);
        let (confinement, login) = if self.confined {
            let confinement = users.confine(user, &self.root, workdir).map_err(|error| refused(&error))?;
            let login = users.login(confinement.uid);
            (Some(confinement), login)
        } else {
            if setting.user.is_some() || setting.cwd.is_some() {
                let message = "this server is not confined to an image: it cannot change user or directory";
                return Err(Refusal::new(Code::Unsupported, message));
            }
            debug_assert!(getgid().as_raw() != u32::MAX, "the kernel's ids are ids");
            (None, users.login(getuid().as_raw()))
        };
        let (program, args) = words(program, &login);
        Ok(Launch { program, args, env: self.environment(setting, &login, terminal), confinement })
    }

    /// What the application has, what a login would add, and what the request says, each over the one before.
    fn environment(
        &self,
        setting: &Setting,
        login: &Login,
        terminal: Option<&Terminal>,
    ) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = vec![("PATH".into(), DEFAULT_PATH.into())];
        let mut put = |name: OsString, value: OsString| {
            env.retain(|(other, _)| *other != name);
            env.push((name, value));
        };
        for (name, value) in [("USER", &login.name), ("LOGNAME", &login.name), ("HOME", &login.home)] {
            if !value.is_empty() {
                put(name.into(), value.into());
            }
        }
        self.env.iter().for_each(|(name, value)| put(name.clone(), value.clone()));
        if let Some(terminal) = terminal {
            put("TERM".into(), terminal.term.clone().into());
        }
        for variable in &setting.env {
            // A checked request has names without NUL before the first "=".
            let mut halves = variable.splitn(2, |byte| *byte == b'=');
            if let (Some(name), Some(value)) = (halves.next(), halves.next()) {
                put(text(name), text(value));
            }
        }
        env
    }
}

fn words(program: Option<&Program>, login: &Login) -> (OsString, Vec<OsString>) {
    match program {
        Some(Program::Words(words)) => {
            let mut words = words.iter().map(|word| text(word));
            (words.next().unwrap_or_default(), words.collect())
        }
        Some(Program::Script(script)) => (DEFAULT_SHELL.into(), vec!["-c".into(), text(script)]),
        None => {
            let works = |shell: &&str| {
                shell.starts_with('/') && !shell.ends_with("/nologin") && !shell.ends_with("/false")
            };
            (Some(login.shell.as_str()).filter(works).unwrap_or(DEFAULT_SHELL).into(), Vec::new())
        }
    }
}

fn text(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::WindowSize;

    fn application(root: PathBuf) -> Application {
        Application {
            root,
            confined: true,
            env: vec![("PATH".into(), "/app".into()), ("HOME".into(), "/elsewhere".into())],
            workdir: "/srv".into(),
            user: "www".into(),
        }
    }

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/bash\nwww:x:33:34::/var/www:/usr/sbin/nologin\n";
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        root
    }

    fn variable(launch: &Launch, name: &str) -> Option<String> {
        let found: Vec<_> = launch.env.iter().filter(|(other, _)| other == name).collect();
        assert!(found.len() <= 1, "{name} is there once");
        found.first().map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    fn terminal() -> Terminal {
        Terminal { term: "xterm".into(), size: WindowSize { columns: 80, rows: 24 } }
    }

    #[test]
    fn what_a_request_leaves_open_is_the_applications() {
        let image = image();
        let application = application(image.path().into());
        let shell = Shell { program: None, setting: Setting::default(), terminal: terminal() };
        let launch = application.shell(&shell).unwrap();
        let confinement = launch.confinement.as_ref().unwrap();
        assert_eq!((confinement.uid, confinement.gid), (33, 34));
        assert_eq!((confinement.root.as_path(), confinement.workdir.to_str()), (image.path(), Some("/srv")));
        assert_eq!(launch.program, "/bin/sh", "nobody can log in with nologin");
        assert_eq!(variable(&launch, "PATH").as_deref(), Some("/app"));
        assert_eq!(variable(&launch, "HOME").as_deref(), Some("/elsewhere"));
        assert_eq!(variable(&launch, "USER").as_deref(), Some("www"));
        assert_eq!(variable(&launch, "TERM").as_deref(), Some("xterm"));
    }

    #[test]
    fn what_a_request_says_wins() {
        let image = image();
        let setting = Setting {
            env: vec![b"PATH=/mine".to_vec(), b"A=b=c".to_vec(), b"EMPTY=".to_vec()],
            cwd: Some(b"/tmp".to_vec()),
            user: Some("0:7".into()),
        };
        let program = Program::Script(b"echo $A".to_vec());
        let run = Run { program, setting, timeout_ms: None, terminal: None, no_wait: false };
        let launch = application(image.path().into()).run(&run).unwrap();
        let confinement = launch.confinement.as_ref().unwrap();
        assert_eq!((confinement.uid, confinement.gid, confinement.workdir.to_str()), (0, 7, Some("/tmp")));
        assert_eq!(
            (launch.program.to_str(), launch.args),
            (Some("/bin/sh"), vec!["-c".into(), "echo $A".into()])
        );
        let launch = Launch { args: Vec::new(), ..application(image.path().into()).run(&run).unwrap() };
        assert_eq!(variable(&launch, "PATH").as_deref(), Some("/mine"));
        assert_eq!(variable(&launch, "A").as_deref(), Some("b=c"));
        assert_eq!(variable(&launch, "EMPTY").as_deref(), Some(""));
        assert_eq!(variable(&launch, "TERM"), None);
    }

    #[test]
    fn a_user_that_the_image_does_not_have_is_refused() {
        let image = image();
        let setting = Setting { user: Some("mallory".into()), ..Setting::default() };
        let run = Run {
            program: Program::Script(b"true".to_vec()),
            setting,
            timeout_ms: None,
            terminal: None,
            no_wait: false,
        };
        let refused = application(image.path().into()).run(&run).unwrap_err();
        assert_eq!(refused.code, Code::CannotStart);
        assert!(refused.message.contains("mallory"), "{refused}");
    }
}
