//! What needs a kernel that is set up for it: the program in a user and mount namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails to prepare has to stop, and says what it skips"
)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Far longer than anything takes; a wait that succeeds ends at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// `prepare`, then the monitor, then `change` once a line comes, then the end once another does or nobody is left to send one.
const SCRIPT: &str = r#"
cd "$1" && eval "$3" || exit 77
"$2" run --base "$1" --roots /app --sweep 0 --state "$1/state" --socket "$1/socket" 2>"$1/log" &
monitor=$!
read -r line && eval "$4"
read -r line
kill "$monitor" 2>/dev/null
wait "$monitor"
"#;

struct World {
    dir: tempfile::TempDir,
    shell: Child,
}

impl World {
    /// `None` where the kernel lets nobody make namespaces.
    fn new(prepare: &str, change: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("app/mnt")).unwrap();
        for number in 0..12 {
            fs::create_dir(dir.path().join(format!("app/{number}"))).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_fs-monitor");
        let can =
            Command::new("unshare").args(["-Urm", "sh", "-c", prepare]).current_dir(dir.path()).output();
        if !can.is_ok_and(|output| output.status.success()) {
            println!("skipped: namespaces for the file monitor (unshare -Urm is refused)");
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", SCRIPT, "sh"]).arg(dir.path()).arg(program).args([prepare, change]);
        let shell = command.stdin(Stdio::piped()).spawn().unwrap();
        Some(Self { dir, shell })
    }

    fn next(&mut self) {
        self.shell.stdin.as_mut().unwrap().write_all(b"next\n").unwrap();
    }

    /// The answer to a request; `None` if there is none yet.
    fn get(&self, target: &str) -> Option<(bool, Value)> {
        let mut stream = UnixStream::connect(self.dir.path().join("socket")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.contains(" 200 "), serde_json::from_str(body).unwrap_or_default()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The shell reads the end of its input, ends the monitor, and then itself.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn until<T>(what: &str, log: &Path, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {}", fs::read_to_string(log).unwrap_or_default());
        thread::sleep(Duration::from_millis(10));
    }
}

/// What was below a mount point is gone with the mount, and nobody could see when.
#[test]
fn an_unmount_is_a_gap_and_what_was_there_is_removed() {
    let prepare = "mount -t tmpfs none app/mnt && echo 1 >app/mnt/file && echo 2 >app/file";
    let Some(mut world) = World::new(prepare, "umount app/mnt") else { return };
    let log = world.dir.path().join("log");
    let record = |world: &World| world.get("/v1/file/record?path=/app/mnt/file");
    until("the first scan", &log, || world.get("/healthz").filter(|(ok, _)| *ok));
    assert_eq!(record(&world).unwrap().1["what"], "present");
    world.next();
    until("the removal is recorded", &log, || record(&world).filter(|(_, now)| now["what"] == "removed"));
    let gaps = world.get("/v1/stream/ledger").unwrap().1;
    assert!(
        gaps["entries"].as_array().unwrap().iter().any(|entry| entry["gap"]["reason"] == "mount"),
        "{gaps}"
    );
    // It goes on: what the mount had hidden is watched.
    fs::write(world.dir.path().join("app/mnt/file"), "3").unwrap();
    let digest = blake3::hash(b"3").to_hex().to_string();
    until("the file below is recorded", &log, || record(&world).filter(|(_, now)| now["blake3"] == *digest));
}

/// The kernel's own limit, and not the one of the command line.
#[test]
fn a_kernel_that_allows_ten_watches_is_said() {
    let Some(world) = World::new("echo 10 >/proc/sys/user/max_inotify_watches", "true") else { return };
    let log = world.dir.path().join("log");
    let said = |text: &String| text.contains("watched directories is reached");
    until("the limit is said", &log, || fs::read_to_string(&log).ok().filter(said));
}
