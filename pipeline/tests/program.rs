//! The program as operators use it: a server in a process of its own, clients from the command line, a person's terminal.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::{
    fs::File,
    io::{Read, Write},
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

const PROGRAM: &str = env!("CARGO_BIN_EXE_pipeline");

/// The value that PCR0 has in these enclaves.
const PCR0: [u8; 48] = [0x5a; 48];

struct Enclave {
    folder: tempfile::TempDir,
    server: Child,
    _module: ServerHandle,
}

impl Enclave {
    fn start() -> Self {
        Self::start_with(PCR0)
    }

    fn start_with(pcr0: [u8; 48]) -> Self {
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
    fn kill_and_restart(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        self.server = listen(self.folder.path());
        eventually("the server listens again", || UnixStream::connect(self.path("control")).is_ok());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with the options that every client here needs, as somebody.
    fn client_of(&self, key: &str) -> Command {
        let mut client = Command::new(PROGRAM);
        client.env("HOME", self.folder.path()).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CONFIG_HOME");
        client.arg("--addr").arg(format!("unix:{}", self.path("control").display()));
        client.arg("--root").arg(self.path("trusted.pem")).arg("--identity").arg(self.path(key));
        client
    }

    fn client(&self) -> Command {
        let mut client = self.client_of("alice");
        client.arg("--pcr").arg(format!("0={}", "5a".repeat(48)));
        client
    }

    fn run(&self, words: &[&str]) -> Output {
        self.client().args(words).stdin(Stdio::null()).output().unwrap()
    }

    fn is_unentered(&self) -> bool {
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
fn processes_with(word: &str) -> usize {
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

fn manifest(key: &str) -> String {
    let may = r#"["exec","read:/","seal","services","shell","write:/"]"#;
    let service = r#"{"command":["/bin/true"],"env":{"GREETING":"hello","PATH":"/usr/bin:/bin"},"name":"main","ready":"started","ready_timeout_s":30,"restart":"never","user":"0","workdir":"/"}"#;
    format!(
        r#"{{"control":{{"operators":[{{"key":"{key}","may":{may},"name":"alice"}}],"port":9002}},"name":"demo","publish":[],"services":[{service}],"version":1}}"#
    )
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_is_like_a_local_command() {
    let enclave = Enclave::start();
    let mut run = enclave.client();
    run.args([
        "run",
        "--env",
        "NAME=world",
        "--command",
        "read x; echo $GREETING $NAME $x; echo err >&2; exit 42",
    ]);
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("hello world input\n".into(), "err\n".into()));
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(enclave.run(&["run", "--command", "kill -TERM $$"]).status.code(), Some(143));
    let late = enclave.run(&["run", "--timeout", "0.2", "--", "sleep", "100"]);
    assert_eq!(late.status.code(), Some(137));
    assert!(text(&late.stderr).contains("longer than it was allowed"), "{late:?}");
    let missing = enclave.run(&["run", "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(text(&missing.stderr).contains("no-such-program"), "{missing:?}");
}

#[test]
fn another_enclave_gets_nothing_and_another_key_is_not_let_in() {
    let enclave = Enclave::start();
    let mut wrong = enclave.client_of("alice");
    let output = wrong
        .arg("--pcr")
        .arg(format!("0={}", "00".repeat(48)))
        .args(["run", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("PCR0"), "{output:?}");
    let output = enclave.client_of("alice").args(["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "nothing says which image: {output:?}");
    let output = enclave.client_of("mallory").args(["--any-image", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("unknown key"), "{output:?}");
    assert!(enclave.is_unentered());
}

#[test]
fn a_debug_enclave_and_one_of_an_unknown_root_are_refused() {
    let debug = Enclave::start_with([0; 48]);
    let output = debug.client_of("alice").args(["--any-image", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("debug"), "{output:?}");
    let enclave = Enclave::start();
    let mut unrooted = Command::new(PROGRAM);
    unrooted.env("HOME", enclave.folder.path()).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CONFIG_HOME");
    unrooted.arg("--addr").arg(format!("unix:{}", enclave.path("control").display()));
    unrooted.arg("--identity").arg(enclave.path("alice")).args(["--any-image", "status"]);
    let output = unrooted.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("evidence was refused"), "{output:?}");
    assert!(debug.is_unentered() && enclave.is_unentered());
}

/// Another image, as far as a server can tell: the same, with other operators in its manifest.
#[test]
fn a_key_that_a_new_image_leaves_out_is_revoked() {
    let mut enclave = Enclave::start();
    assert_eq!(enclave.run(&["run", "--", "true"]).status.code(), Some(0));
    let other = std::fs::read_to_string(enclave.path("mallory.pub")).unwrap();
    std::fs::write(enclave.path("manifest.json"), manifest(other.trim())).unwrap();
    enclave.kill_and_restart();
    let output = enclave.run(&["run", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("unknown key"), "{output:?}");
}

#[test]
fn runs_without_a_client_are_followed_and_all_is_in_the_transcript() {
    let enclave = Enclave::start();
    let id = text(&enclave.run(&["run", "--no-wait", "--command", "echo begun; sleep 0.3; exit 3"]).stdout);
    let id = id.trim();
    let logs = enclave.run(&["logs", "--follow", id]);
    assert_eq!((text(&logs.stdout), logs.status.code()), ("begun\n".into(), Some(3)));
    let status = text(&enclave.run(&["status", "--json", id]).stdout);
    assert!(status.contains("\"status\":3"), "{status}");
    let table = text(&enclave.run(&["status"]).stdout);
    assert!(table.starts_with("id ") && table.contains("ended"), "{table}");
    let killed = enclave.run(&["kill", "--signal", "KILL", id]);
    assert_eq!(killed.status.code(), Some(1), "it has ended: {killed:?}");
    let transcript = enclave.run(&["transcript"]);
    assert_eq!(transcript.status.code(), Some(0));
    assert!(text(&transcript.stderr).contains("agrees with the enclave's evidence"), "{transcript:?}");
    assert!(text(&transcript.stdout).contains("sleep 0.3"), "{transcript:?}");
    assert_eq!(enclave.run(&["seal"]).status.code(), Some(1));
}

#[test]
fn a_sealed_enclave_admits_nobody() {
    let enclave = Enclave::start();
    let sealed = enclave.run(&["seal"]);
    assert_eq!(sealed.status.code(), Some(0), "{sealed:?}");
    let refused = enclave.run(&["run", "--", "true"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).contains("sealed"), "{refused:?}");
    assert!(enclave.is_unentered());
}

#[test]
fn files_go_there_and_back() {
    let enclave = Enclave::start();
    let (here, there, back) = (enclave.path("here"), enclave.path("there"), enclave.path("back"));
    std::fs::write(&here, vec![7; 3_000_000]).unwrap();
    let (here, there, back) = (here.to_str().unwrap(), there.to_str().unwrap(), back.to_str().unwrap());
    let sent = enclave.run(&["send-file", "--quiet", here, there]);
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    let received = enclave.run(&["recv-file", "--quiet", there, back]);
    assert_eq!(received.status.code(), Some(0), "{received:?}");
    assert_eq!(std::fs::read(back).unwrap(), vec![7; 3_000_000]);
}

/// A server that was killed left the programs of its operators behind, for ever.
#[test]
fn the_programs_of_a_killed_server_are_ended_by_the_next_one() {
    let mut enclave = Enclave::start();
    let word = format!("{}00077", std::process::id());
    let script = format!("set -m; sleep {word} & sleep {word} & echo ready; wait");
    let mut waited = enclave.client();
    waited.args(["run", "--command", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut waited = waited.stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 6];
    waited.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let unwaited = enclave.run(&["run", "--no-wait", "--command", &format!("sleep {word}")]);
    assert!(unwaited.status.success(), "{unwaited:?}");
    assert!(processes_with(&word) >= 3);
    enclave.kill_and_restart();
    assert!(!waited.wait().unwrap().success());
    eventually("the programs are gone", || processes_with(&word) == 0);
    assert_eq!(enclave.run(&["run", "--", "true"]).status.code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_run() {
    let enclave = Enclave::start();
    let mut client = enclave.client();
    client.args(["run", "--command", "yes word"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = client.stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((&first, output.status.code(), text(&output.stderr)), (b"word\n", Some(141), String::new()));
}

/// Reads from a terminal until it has shown `wanted`.
fn until(terminal: &mut File, wanted: &str) -> String {
    let (mut shown, mut buffer) = (String::new(), [0; 4096]);
    while !shown.contains(wanted) {
        let count = terminal.read(&mut buffer).unwrap_or_else(|_| panic!("no {wanted:?} in {shown:?}"));
        shown.push_str(&text(&buffer[..count]));
    }
    shown
}

/// A shell in a person's terminal, in which the client is started like any other program.
#[test]
fn a_shell_is_like_a_local_one_and_leaves_the_terminal_as_it_was() {
    let enclave = Enclave::start();
    let client = enclave.client();
    let words: Vec<_> = client.get_args().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let line = format!("{PROGRAM} {}", words.join(" "));
    let script = format!("stty sane; {line} shell -- sh -i; echo code=$?; stty -a; echo all do''ne; read x");
    let launch = sys::pid1::Launch {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("HOME".into(), enclave.folder.path().into()),
            ("TERM".into(), "xterm".into()),
        ],
        confinement: None,
    };
    let person = sys::session::spawn_on_terminal(&launch, 90, 30).unwrap();
    let resize = person.controller.try_clone().unwrap();
    let mut terminal = File::from(person.controller);
    terminal.write_all(b"echo begin=$TERM; stty size; tty\r").unwrap();
    let shown = until(&mut terminal, "/dev/pts/");
    assert!(shown.contains("begin=xterm\r\n30 90\r\n"), "{shown:?}");
    // Ctrl-C is for what runs inside. The line before it is echoed once, by the terminal inside.
    // What waits says so itself: before it is in the foreground, an interrupt is the shell's.
    terminal.write_all(b"sh -c 'echo wait\"\"ing; exec sleep 1000'\r").unwrap();
    until(&mut terminal, "waiting");
    terminal.write_all(&[3]).unwrap();
    terminal.write_all(b"\recho alive=yes''yes\r").unwrap();
    until(&mut terminal, "alive=yesyes");
    sys::session::resize(&resize, 100, 40).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        terminal.write_all(b"stty size; echo asked=''1\r").unwrap();
        if until(&mut terminal, "asked=1").contains("40 100") {
            break;
        }
        assert!(Instant::now() < end, "the size inside follows");
    }
    terminal.write_all(b"exit 7\r").unwrap();
    let shown = until(&mut terminal, "all done");
    assert!(shown.contains("code=7"), "{shown:?}");
    assert!(shown.contains(" icanon") && shown.contains(" echo ") && shown.contains("\nopost"), "{shown:?}");
    sys::session::kill_session(person.pid);
    rustix::process::waitpid(Some(person.pid), rustix::process::WaitOptions::empty()).unwrap();
}

#[test]
fn the_program_explains_itself() {
    let output = |words: &[&str]| text(&Command::new(PROGRAM).args(words).output().unwrap().stdout);
    for verb in
        ["run", "shell", "services", "status", "logs", "kill", "seal", "transcript", "listen", "send-file"]
    {
        assert!(output(&["--help"]).contains(&format!("\n  {verb}")), "{verb}");
    }
    assert!(output(&["completions", "bash"]).contains("pipeline"));
    assert!(output(&["man"]).starts_with(".ie") || output(&["man"]).contains(".TH pipeline"));
}
