//! Events and records sent to a real NATS server, which goes away and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails to prepare has to stop, and says what it skips"
)]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use serde_json::Value;

/// Far longer than anything takes; a wait that succeeds ends at once.
const PATIENCE: Duration = Duration::from_secs(90);

const PROGRAM: &str = env!("CARGO_BIN_EXE_fs-monitor");

/// A process that is ended with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn nats_server() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("nats-server")).find(|program| program.is_file())
}

/// Starts a server on a port of its own choice, and returns where.
fn serve(program: &Path, dir: &Path) -> (Running, String) {
    let mut command = Command::new(program);
    command.args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"]).arg(dir).arg("--ports_file_dir").arg(dir);
    let server = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let ports = dir.join(format!("nats-server_{}.ports", server.0.id()));
    let address = until("the server listens", || {
        let ports: Value = serde_json::from_slice(&fs::read(&ports).ok()?).ok()?;
        Some(ports["nats"][0].as_str()?.trim_start_matches("nats://").to_owned())
    });
    (server, address)
}

/// The way to a server, which can be cut.
#[derive(Clone)]
struct Way(Arc<Mutex<(bool, Vec<TcpStream>)>>);

impl Way {
    fn to(server: String) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Self(Arc::new(Mutex::new((false, Vec::new()))));
        let open = way.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut state = open.0.lock().unwrap();
                if !state.0 {
                    continue;
                }
                let server = TcpStream::connect(&server).unwrap();
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                state.1.push(client);
            }
        });
        (way, port)
    }

    fn open(&self) {
        self.0.lock().unwrap().0 = true;
    }

    fn cut(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 = false;
        for client in state.1.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn run(dir: &Path, port: u16) -> Running {
    let notify = dir.join("notify");
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["run", "--roots", "/app", "--nats", &format!("nats://127.0.0.1:{port}"), "--base"])
        .arg(dir);
    command.arg("--state").arg(dir.join("state")).arg("--socket").arg(dir.join("socket"));
    let daemon = Running(command.env("NOTIFY_SOCKET", &notify).stderr(Stdio::null()).spawn().unwrap());
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    daemon
}

fn ask(dir: &Path, words: &[&OsStr]) -> Value {
    let output =
        Command::new(PROGRAM).args(words).arg("--json").arg("--socket").arg(dir.join("socket")).output();
    serde_json::from_slice(&output.unwrap().stdout).unwrap()
}

fn status(dir: &Path) -> Value {
    ask(dir, &["status".as_ref()])
}

/// Waits until `files` more entries or more are in the ledger, and all of it is acknowledged; returns its size.
fn all_sent(dir: &Path, at_least: u64) -> u64 {
    until("everything is sent", || {
        let status = status(dir);
        let entries = status["entries"].as_u64().unwrap();
        let done = entries >= at_least && status["pending"] == 0 && status["nats"]["next"] == entries;
        done.then_some(entries)
    })
}

#[tokio::test]
async fn every_entry_arrives_whatever_breaks_meanwhile() {
    let Some(program) = nats_server() else {
        println!("skipped: NATS (nats-server is not installed)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    fs::create_dir(&app).unwrap();
    let long = "l".repeat(250);
    let odd: [&[u8]; 4] = [b"a.b c", b"line\nend", b"\xff\xfe", long.as_bytes()];
    for name in odd {
        fs::write(app.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let (_server, address) = serve(&program, dir.path());
    let (way, port) = Way::to(address.clone());

    // Nobody is there: the monitor begins nevertheless, and says what is wrong.
    let daemon = run(dir.path(), port);
    until("the problem is told", || status(dir.path())["nats"]["why"].as_str().map(drop));
    way.open();
    let first = all_sent(dir.path(), 5);
    assert_eq!(status(dir.path())["nats"]["why"], Value::Null);

    way.cut();
    for number in 0..300 {
        fs::write(app.join(format!("file-{number}")), format!("{number}")).unwrap();
    }
    fs::remove_file(app.join("a.b c")).unwrap();
    until("the changes are recorded", || {
        (status(dir.path())["entries"].as_u64().unwrap() > first + 300).then_some(())
    });
    way.open();
    let second = all_sent(dir.path(), first + 301);

    drop(daemon);
    fs::write(app.join("file-1"), "changed while nobody looked").unwrap();
    let _daemon = run(dir.path(), port);
    let size = all_sent(dir.path(), second + 2);

    let now = ask(dir.path(), &["proof".as_ref(), "/app/file-1".as_ref()]);
    let client = async_nats::connect(&address).await.unwrap();
    let context = jetstream::new(client);
    let (indices, ledger) = received(&context).await;
    assert_eq!(indices, (0..size).collect(), "each entry at least once, and nothing else");

    let bucket = context.get_key_value("glasshouse").await.unwrap();
    let record = async |key: &str| -> Value {
        let value = bucket.get(format!("{ledger}./app/{key}")).await.unwrap().unwrap();
        serde_json::from_slice(&value).unwrap()
    };
    assert_eq!(record("file-1").await, now);
    assert_eq!(record("a=2Eb=20c").await["what"], "removed");
    for (key, name) in [("line=0Aend", &odd[1]), ("=FF=FE", &odd[2]), (&*long, &odd[3])] {
        assert_eq!(record(key).await["blake3"], blake3::hash(name).to_hex().to_string());
    }
}

/// The indices of all events in the stream, and the ledger's name in subjects.
async fn received(context: &jetstream::Context) -> (BTreeSet<u64>, String) {
    let stream = context.get_stream("glasshouse").await.unwrap();
    let last = stream.get_info().await.unwrap().state.last_sequence;
    let (mut indices, mut ledger) = (BTreeSet::new(), String::new());
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let parts: Vec<&str> = message.subject.split('.').collect();
        ledger = parts[1].to_owned();
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        if parts[2] != "checkpoint" {
            assert_eq!(body["kind"], parts[2]);
            assert_eq!(body["record"].is_object(), parts[2] == "file");
            indices.insert(body["index"].as_u64().unwrap());
        }
    }
    (indices, ledger)
}
