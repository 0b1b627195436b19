//! An enclave's control channel, served by the program in a process of its own.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nsm::{
    PcrIndex,
    sim::{DevelopmentRoot, ServerHandle, SimulatedNsm, serve_module},
};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_pipeline");

/// The value that PCR0 has in these enclaves.
const PCR0: [u8; 48] = [0x5a; 48];

pub(crate) struct Enclave {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) server: Child,
    _module: ServerHandle,
}

impl Enclave {
    pub(crate) fn start() -> Self {
        Self::start_with(PCR0)
    }

    pub(crate) fn start_with(pcr0: [u8; 48]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let root = DevelopmentRoot::load_or_create(folder.path()).unwrap();
        std::fs::write(path("trusted.pem"), root.root_pem()).unwrap();
        let pcrs = [(PcrIndex::new(0_u8).unwrap(), pcr0)];
        let module = SimulatedNsm::new(&root, "i-1234567890abcdef0-enc1234567890abcde", &pcrs).unwrap();
        let listener = UnixListener::bind(path("nsm")).unwrap();
        let module = serve_module(listener, Arc::new(module)).unwrap();
        let (alice, _mallory) = (make_key(&path("alice")), make_key(&path("mallory")));
        std::fs::write(path("manifest.json"), manifest(&alice)).unwrap();
        let enclave = Self { server: listen(folder.path()), _module: module, folder };
        eventually("the server listens", || UnixStream::connect(enclave.path("control")).is_ok());
        enclave
    }

    /// As if the server had been killed, and init had started it again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        self.server = listen(self.folder.path());
        eventually("the server listens again", || UnixStream::connect(self.path("control")).is_ok());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with the options that every client here needs, as somebody.
    pub(crate) fn client_of(&self, key: &str) -> Command {
        let mut client = Command::new(PROGRAM);
        client.env("HOME", self.folder.path()).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CONFIG_HOME");
        client.arg("--addr").arg(format!("unix:{}", self.path("control").display()));
        client.arg("--root").arg(self.path("trusted.pem")).arg("--identity").arg(self.path(key));
        client
    }

    pub(crate) fn client(&self) -> Command {
        let mut client = self.client_of("alice");
        client.arg("--pcr").arg(format!("0={}", "5a".repeat(48)));
        client
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.client().args(words).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn is_unentered(&self) -> bool {
        !self.path("state/transcript").exists()
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn listen(folder: &Path) -> Child {
    let path = |name: &str| folder.join(name);
    let mut listen = Command::new(PROGRAM);
    listen.arg("listen").arg("--listen").arg(format!("unix:{}", path("control").display()));
    listen.arg("--manifest").arg(path("manifest.json")).arg("--nsm").arg(path("nsm"));
    listen.args(["--rootfs", "/", "--unconfined", "--state"]).arg(path("state"));
    listen.stderr(Stdio::null()).spawn().unwrap()
}

/// How many processes have this word on their command line.
pub(crate) fn processes_with(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap();
    let command =
        |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.ok()?.path().join("cmdline")).ok();
    entries.filter_map(command).filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

/// Makes a key, and returns its public line.
fn make_key(path: &Path) -> String {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(path);
    assert!(keygen.status().expect("ssh-keygen is there").success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

pub(crate) fn manifest(key: &str) -> String {
    let may = r#"["exec","read:/","seal","services","shell","write:/"]"#;
    let service = r#"{"command":["/bin/true"],"env":{"GREETING":"hello","PATH":"/usr/bin:/bin"},"name":"main","ready":"started","ready_timeout_s":30,"restart":"never","user":"0","workdir":"/"}"#;
    format!(
        r#"{{"control":{{"operators":[{{"key":"{key}","may":{may},"name":"alice"}}],"port":9002}},"name":"demo","publish":[],"services":[{service}],"version":1}}"#
    )
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
