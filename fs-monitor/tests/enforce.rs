//! Programs that open files are held until what they would read is recorded.
//!
//! In a mount namespace of the test's own, on a file system of its own: nothing outside is ever held. Needs root in the
//! initial user namespace and a kernel with permission events; without them it says so and passes over the tests.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = env!("CARGO_BIN_EXE_fs-monitor");

/// Mounts a file system of its own at `$1/tree`, then runs the daemon with the words behind it.
const SETUP: &str = "dir=$1; shift; mount -t tmpfs tmpfs $dir/tree; mkdir $dir/tree/app; echo first > $dir/tree/app/first; \
                     exec \"$@\" --base $dir/tree --state $dir/state --socket $dir/socket --roots /app --sweep 0";

struct World {
    dir: TempDir,
    daemon: Child,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl World {
    /// `None` where programs cannot be held, which is said.
    fn new(words: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("passed over: not root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut daemon = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-ceu", SETUP, "sh"])
            .arg(dir.path())
            .args([PROGRAM, "run", "--enforce", "require"])
            .args(words)
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        while notify.recv(&mut [0; 64]).is_err() {
            if daemon.try_wait().unwrap().is_some() {
                let said = fs::read_to_string(dir.path().join("log")).unwrap();
                let rights = ["Operation not permitted", "unshare", "Invalid argument", "not implemented"];
                assert!(rights.iter().any(|lack| said.contains(lack)), "{said}");
                eprintln!("passed over: {said}");
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon is not ready");
        }
        Some(Self { dir, daemon })
    }

    /// Runs a script beside the daemon, in `app`; what is held for ever is killed.
    fn sh(&self, script: &str) -> Output {
        Command::new("timeout")
            .args([
                "-s",
                "KILL",
                "60",
                "nsenter",
                "-m",
                "-t",
                &self.daemon.id().to_string(),
                "--",
                "sh",
                "-c",
            ])
            .arg(format!("cd {}/tree/app && {script}", self.dir.path().display()))
            .output()
            .unwrap()
    }

    fn get(&self, target: &str) -> Vec<u8> {
        get(&self.dir.path().join("socket"), target)
    }

    /// The BLAKE3 digests in the history of a file.
    fn digests(&self, path: &str) -> Vec<String> {
        let socket = self.dir.path().join("socket");
        let output =
            Command::new(PROGRAM).args(["history", path, "--json", "--socket"]).arg(socket).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let records = String::from_utf8(output.stdout).unwrap();
        let digest =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["blake3"].as_str().map(str::to_owned);
        records.lines().filter_map(digest).collect()
    }
}

fn get(socket: &Path, target: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    answer[end + 4..].to_vec()
}

/// Each content is there for an instant: who only hears of changes afterwards misses most of them.
#[test]
fn every_content_that_was_read_is_recorded() {
    let Some(world) = World::new(&[]) else { return };
    let output = world.sh("for i in $(seq 1 60); do echo $i > f; cat f; done");
    let expected: String = (1..=60).map(|i| format!("{i}\n")).collect();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        expected,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let digests = world.digests("/app/f");
    for i in 1..=60 {
        let digest = blake3::hash(format!("{i}\n").as_bytes()).to_hex().to_string();
        assert!(digests.contains(&digest), "{i} was read and is not recorded");
    }
    let status: Value = serde_json::from_slice(&world.get("/v1/status")).unwrap();
    assert_eq!(status["enforce"], "on");
}

#[test]
fn what_is_denied_is_neither_read_nor_run() {
    let evil = "#!/bin/sh\necho run\n";
    let digest = format!("blake3:{}", blake3::hash(evil.as_bytes()).to_hex());
    let Some(world) = World::new(&["--deny", "/app/closed", "--deny", &digest]) else { return };
    let output =
        world.sh("mkdir closed; echo x > elsewhere; ln elsewhere closed/x; cat elsewhere; cat closed/x");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("not permitted"), "{output:?}");
    // Written under another name, it is denied all the same, and once it is changed it is another one.
    let script = format!("printf '%s' '{evil}' > a; chmod 755 a; ./a; cat a; echo more >> a; echo ended");
    let output = world.sh(&script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ended\n", "{output:?}");
    assert!(world.digests("/app/a").contains(&digest["blake3:".len()..].to_owned()));
    let output = world.sh("rm a; printf '#!/bin/sh\necho good\n' > a; chmod 755 a; ./a");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n", "{output:?}");
}

#[test]
fn many_programs_at_a_time_are_held_and_let_go() {
    let Some(world) = World::new(&[]) else { return };
    let script = "for i in $(seq 1 40); do (echo $i > $i; cat $i >/dev/null; cat first >/dev/null) & done; wait; cat 7 40";
    assert_eq!(String::from_utf8_lossy(&world.sh(script).stdout), "7\n40\n");
    for i in [1, 23, 40] {
        let digest = blake3::hash(format!("{i}\n").as_bytes()).to_hex().to_string();
        assert!(world.digests(&format!("/app/{i}")).contains(&digest));
    }
}

/// Without the right, `require` does not start, and `prefer` says what is missing and goes on.
#[test]
fn without_the_right_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(dir.path().join("app")).unwrap();
    // A copy where anybody may run it, whatever the modes above the place it was built in.
    let program = dir.path().join("fs-monitor");
    // Made by another process: what this one writes, processes that other tests start at that moment have open too, and
    // what is open for writing cannot be run.
    let copied = Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap();
    assert!(copied.success());
    let command = |enforce: &str| {
        let mut command = Command::new(&program);
        command.args(["run", "--roots", "/app", "--enforce", enforce, "--base"]).arg(dir.path());
        command.arg("--state").arg(dir.path().join(enforce)).arg("--socket").arg(dir.path().join("socket"));
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command
    };
    let output = command("require").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.code() == Some(4) && said.contains("cannot hold programs"),
        "{:?} {said}",
        output.status
    );
    let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    fs::set_permissions(dir.path().join("notify"), fs::Permissions::from_mode(0o777)).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = command("prefer")
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ready = notify.recv(&mut [0; 64]);
    let status = ready.map(|_| get(&dir.path().join("socket"), "/v1/status"));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let status: Value = serde_json::from_slice(&status.unwrap()).unwrap();
    assert!(status["enforce"].as_str().unwrap().starts_with("unavailable: "), "{status}");
}
