//! The program as its users have it: run, asked over its socket, killed and run again.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use ledger::{Anchor, Baseline, Checkpoint, FileNow, Hash, StreamPayload};
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than anything takes; a wait that succeeds ends at once.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = env!("CARGO_BIN_EXE_fs-monitor");

/// A directory of files, and a daemon that watches it.
struct World {
    dir: TempDir,
    daemon: Child,
}

/// Runs the daemon and waits until it says that it is ready.
fn run(dir: &Path) -> Child {
    let notify = dir.join("notify");
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let daemon = Command::new(PROGRAM)
        .args(["run", "--roots", "/app", "--ignore", "*.log", "--digest", "sha256", "--sweep", "0", "--base"])
        .arg(dir)
        .arg("--state")
        .arg(dir.join("state"))
        .arg("--socket")
        .arg(dir.join("socket"))
        .env("NOTIFY_SOCKET", &notify)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    daemon
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        fs::write(dir.path().join("app/first"), "1").unwrap();
        let daemon = run(dir.path());
        Self { dir, daemon }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("app").join(name)
    }

    fn connect(&self, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Status and body.
    fn http(&self, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        let mut stream = self.connect(&head);
        // A server that refuses the length does not read the body.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }

    fn get(&self, target: &str) -> Vec<u8> {
        let (status, body) = self.http("GET", target, b"");
        assert_eq!(status, 200, "{target}: {}", String::from_utf8_lossy(&body));
        body
    }

    fn json(&self, target: &str) -> Value {
        serde_json::from_slice(&self.get(target)).unwrap()
    }

    /// What proofs are checked against now, with the size.
    fn anchor(&self) -> (Anchor, u64) {
        let now = self.json("/v1/checkpoint");
        let bytes =
            |name: &str| <[u8; 32]>::try_from(hex::decode(now[name].as_str().unwrap()).unwrap()).unwrap();
        let size = now["size"].as_u64().unwrap();
        let checkpoint =
            Checkpoint { size, log_root: Hash(bytes("log_root")), map_root: Hash(bytes("map_root")) };
        (Anchor::new(checkpoint, &bytes("vrf_key")).unwrap(), size)
    }

    /// Asks until the last record of a file has this BLAKE3 digest.
    fn wait_for(&self, name: &str, content: &str) {
        let wanted = blake3::hash(content.as_bytes()).to_hex().to_string();
        let start = Instant::now();
        loop {
            let (status, body) = self.http("GET", &format!("/v1/file/record?path=/app/{name}"), b"");
            let record: Value = serde_json::from_slice(&body).unwrap();
            if status == 200 && record["blake3"] == *wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{name}: {record}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn command(&self, words: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(words)
            .arg("--socket")
            .arg(self.dir.path().join("socket"))
            .output()
            .unwrap()
    }

    fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

#[test]
fn a_users_questions_are_answered_with_proofs() {
    let world = World::new();
    fs::write(world.path("new"), "a").unwrap();
    world.wait_for("new", "a");
    fs::write(world.path("new"), "b").unwrap();
    world.wait_for("new", "b");
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let history = world.command(&["history", "/app/new"]);
    assert!(history.status.success());
    for content in ["a", "b"] {
        assert!(
            text(&history).contains(&blake3::hash(content.as_bytes()).to_hex().to_string()),
            "{}",
            text(&history)
        );
    }
    let absent = world.command(&["proof", "/app/never", "--json"]);
    assert!(absent.status.success());
    assert_eq!(text(&absent).trim(), r#"{"path":"/app/never","what":"never"}"#);
    let status: Value = serde_json::from_slice(&world.command(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["state"], &status["baseline"]), (&"watching".into(), &true.into()), "{status}");
    assert_eq!(status["files"], 3, "the directory, the first file and the new one");
    let record = world.json("/v1/file/record?path=/app/first");
    let sha256 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    assert_eq!((&record["sha256"], &record["cause"]), (&sha256.into(), &"scan".into()), "{record}");
}

#[test]
fn a_proof_that_was_tampered_with_is_refused() {
    let world = World::new();
    let (anchor, size) = world.anchor();
    let proof = world.get(&format!("/v1/file/proof?path=/app/first&at={size}"));
    assert!(matches!(anchor.verify_file(b"/app/first", &proof).unwrap(), FileNow::Recorded(_)));
    assert!(anchor.verify_file(b"/app/other", &proof).is_err());
    for at in (0..proof.len()).step_by(7) {
        let mut tampered = proof.clone();
        tampered[at] ^= 1;
        assert!(anchor.verify_file(b"/app/first", &tampered).is_err(), "byte {at}");
    }
    let absence = world.get(&format!("/v1/file/proof?path=/app/none%0a%ff&at={size}"));
    assert_eq!(anchor.verify_file(b"/app/none\n\xff", &absence).unwrap(), FileNow::Never);
}

#[test]
fn streams_are_appended_read_and_proved() {
    let world = World::new();
    for text in ["one", "two"] {
        let (status, body) = world.http("POST", "/v1/stream/app/notes", text.as_bytes());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    let entries = world.json("/v1/stream/app/notes?from=0&limit=10");
    assert_eq!(
        (&entries["entries"][1]["payload"], &entries["next"]),
        (&"dHdv".into(), &2.into()),
        "{entries}"
    );
    let (anchor, size) = world.anchor();
    let proof = world.get(&format!("/v1/stream/app/notes/proof?at={size}"));
    let stream = anchor.verify_stream(&"app/notes".parse().unwrap(), &proof).unwrap();
    let payloads: Vec<_> = stream.entries.into_iter().map(|entry| entry.payload).collect();
    assert_eq!(payloads, [StreamPayload::Bytes(b"one".to_vec()), StreamPayload::Bytes(b"two".to_vec())]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let world = World::new();
    let large = vec![0; (64 << 10) + 1];
    for (status, method, target, body) in [
        (400, "GET", "/v1/file/record?path=app", &b""[..]),
        (400, "GET", "/v1/file/proof?path=/app/../x", b""),
        (400, "GET", "/v1/file/proof?path=/app&at=x", b""),
        (400, "GET", "/v1/entries?limit=0", b""),
        (404, "GET", "/v1/file/record?path=/app/none", b""),
        (404, "GET", "/v1/file/proof?path=/app/first&at=999999", b""),
        (404, "GET", "/v1/consistency?from=0&to=999999", b""),
        (404, "GET", "/v1/tile/0/x999/999", b""),
        (404, "GET", "/v1/tile/../../etc/passwd", b""),
        (404, "GET", "/v1/stream/other", b""),
        (404, "POST", "/v1/stream/ledger", b"x"),
        (405, "DELETE", "/v1/entries", b""),
        (413, "POST", "/v1/stream/egress", &large),
        (404, "GET", "/nothing", b""),
    ] {
        let (found, body) = world.http(method, target, body);
        assert_eq!(found, status, "{method} {target}: {}", String::from_utf8_lossy(&body));
    }
    assert_eq!(world.get("/healthz"), b"ok\n");
    let mode = fs::metadata(world.dir.path().join("socket")).unwrap().permissions().mode();
    let state = fs::metadata(world.dir.path().join("state")).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, state & 0o777), (0o600, 0o700));
}

/// Whatever was acknowledged before the kill is there after it, under the same keys, and the log has only grown.
#[test]
fn killed_at_any_moment_it_goes_on_with_one_history_and_a_gap() {
    let mut world = World::new();
    let baseline = world.get("/v1/baseline");
    for round in 0..3 {
        let mut acknowledged = 0;
        for i in 0..20 {
            fs::write(world.path(&format!("{round}-{i}")), i.to_string()).unwrap();
            let (status, _) = world.http("POST", "/v1/stream/app/work", i.to_string().as_bytes());
            acknowledged += usize::from(status == 200);
        }
        assert_eq!(acknowledged, 20);
        let (_, before) = world.anchor();
        world.kill();
        fs::write(world.path(&format!("{round}-unseen")), "x").unwrap();
        world.daemon = run(world.dir.path());
        assert_eq!(world.get("/v1/baseline"), baseline);
        let (anchor, after) = world.anchor();
        assert!(after > before);
        let proof = world.get(&format!("/v1/stream/app/work/proof?at={after}"));
        let stream = anchor.verify_stream(&"app/work".parse().unwrap(), &proof).unwrap();
        assert_eq!(stream.entries.len(), 20 * (round + 1));
        world.json(&format!("/v1/consistency?from={before}&to={after}"));
        for name in [format!("{round}-19"), format!("{round}-unseen")] {
            world.wait_for(&name, if name.ends_with("19") { "19" } else { "x" });
        }
        let gaps = world.json("/v1/stream/ledger");
        assert_eq!(gaps["entries"].as_array().unwrap().len(), round + 1, "{gaps}");
    }
    let decoded = Baseline::decode(&baseline).unwrap();
    let entries = world.json(&format!("/v1/entries?from={}&limit=1", decoded.checkpoint.size));
    assert_eq!(entries["next"], decoded.checkpoint.size + 1, "the log goes on from the baseline");
}

/// The data of the next event of this type.
fn next_data(lines: &mut impl Iterator<Item = String>, event: &str) -> Value {
    let wanted = format!("event: {event}");
    lines.find(|line| *line == wanted).unwrap();
    let data = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
    serde_json::from_str(&data).unwrap()
}

#[test]
fn events_tell_of_every_entry_and_changes_tell_names() {
    let world = World::new();
    let lines = |target: &str| {
        let stream = world.connect(&format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n"));
        BufReader::new(stream).lines().map(Result::unwrap)
    };
    let mut all = lines("/v1/events?from=0");
    assert_eq!(next_data(&mut all, "entry")["index"], 0);
    next_data(&mut all, "checkpoint");
    let mut changes = lines("/v1/changes");
    // The head is there once the daemon listens for changes.
    changes.find(String::is_empty).unwrap();
    let size = world.json("/v1/checkpoint")["size"].as_u64().unwrap();
    fs::write(world.path("new"), "x").unwrap();
    let record = next_data(&mut changes, "file");
    assert!(["/app/new", "/app"].contains(&record["path"].as_str().unwrap()), "{record}");
    assert_eq!(next_data(&mut all, "entry")["index"], size);
}

#[test]
fn what_cannot_be_watched_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let state = dir.path().join("state");
        let output = Command::new(PROGRAM)
            .args(["run", "--base"])
            .arg(dir.path())
            .arg("--state")
            .arg(&state)
            .arg("--socket")
            .arg(dir.path().join("socket"))
            .args(words)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (status, text) = run(&["--roots", "/none"]);
    assert!(status == Some(4) && text.contains("there is no such file"), "{status:?} {text}");
    for i in 0..12 {
        fs::create_dir_all(dir.path().join(format!("app/{i}"))).unwrap();
    }
    let (status, text) = run(&["--roots", "/app", "--max-watches", "10"]);
    assert!(
        status == Some(4) && text.contains("the limit of 10 watched directories is reached"),
        "{status:?} {text}"
    );
    let (status, text) = run(&["--manifest", dir.path().join("none").to_str().unwrap()]);
    assert!(status == Some(4) && text.contains("cannot use"), "{status:?} {text}");
}
