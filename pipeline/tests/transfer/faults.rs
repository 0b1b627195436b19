//! What goes wrong beside the peer: a disk that is full, a server that is killed, and a whole transfer as specified.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use pipeline::{
    frame::{FrameReader, Kind},
    request::{Request, SendFile},
    transfer::{Meter, Source, client, entry::Total},
};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};

use crate::support::*;

/// Says to a process that this test started what it is, as `socket:root` or as a folder.
const ROLE: &str = "GLASSHOUSE_TEST_TRANSFER";

fn this_test(name: &str) -> Vec<String> {
    let own = env::current_exe().unwrap().to_str().unwrap().to_owned();
    [&own, "--exact", name, "--ignored", "--nocapture"].map(str::to_owned).to_vec()
}

#[test]
#[ignore = "a server for another test, in a process of its own"]
fn server_process() {
    let role = env::var(ROLE).unwrap();
    let (socket, root) = role.split_once(':').unwrap();
    runtime().block_on(async {
        let listener = UnixListener::bind(socket).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, root.into(), reach(&["/"])));
        }
    });
}

/// A server that can be killed.
fn start_server(socket: &Path, root: &Path) -> Child {
    let words = this_test("faults::server_process");
    let role = format!("{}:{}", socket.display(), root.display());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(ROLE, role).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    wait_until(|| std::os::unix::net::UnixStream::connect(socket).is_ok());
    child
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gives its first bytes, and then waits until it is told to end.
struct Stalling {
    first: std::io::Cursor<Vec<u8>>,
    end: mpsc::Receiver<()>,
}

impl Read for Stalling {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.first.read(into)? {
            0 => {
                self.end.recv_timeout(PATIENCE).unwrap();
                Ok(0)
            }
            count => Ok(count),
        }
    }
}

#[test]
fn a_killed_server_leaves_what_the_next_one_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let (root, socket) = (folder.path().join("root"), folder.path().join("socket"));
    let (local, content) = (folder.path().join("local"), noise(500_000, 7));
    fs::create_dir(&root).unwrap();
    fs::write(&local, &content).unwrap();
    let mut server = start_server(&socket, &root);
    let (end, ended) = mpsc::channel();
    let first = std::io::Cursor::new(content[..300_000].to_vec());
    let source = Source::Stream { stream: Box::new(Stalling { first, end: ended }), mode: 0o600 };
    let request =
        Request::SendFile(SendFile { path: b"/file".to_vec(), mode: None, size: None, resume: true });
    runtime().block_on(async {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let sending = client::upload(&mut stream, &request, source, Meter::default(), PATIENCE);
        let killing = tokio::task::spawn_blocking({
            let root = root.clone();
            move || {
                let length = |path: &PathBuf| fs::metadata(root.join(path)).unwrap().len();
                wait_until(|| partials(&root).first().is_some_and(|path| length(path) == 300_000));
                server.kill().unwrap();
                server.wait().unwrap();
                end.send(()).unwrap();
            }
        });
        let (sent, killed) = tokio::join!(sending, killing);
        killed.unwrap();
        assert!(sent.unwrap_err().to_string().contains("the connection was cut"));
        assert!(!root.join("file").exists());
        fs::remove_file(&socket).unwrap();
        let mut server = start_server(&socket, &root);
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let meter = Meter::default();
        let again = Job::new("send-file", &root, &local, "/file").ask(&mut stream, meter.clone()).await;
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(again.unwrap().content, Some(*blake3::hash(&content).as_bytes()));
        assert_eq!(meter.kept(), 300_000);
    });
    assert_eq!(fs::read(root.join("file")).unwrap(), content);
    assert_eq!(partials(&root), Vec::<PathBuf>::new());
}

/// Room in the file system of the next test, in bytes.
const ROOM_BYTES: usize = 256 << 10;

#[test]
fn a_full_disk_is_said_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let unshare = |then: &[String]| {
        let script = format!("mount -t tmpfs -o size={ROOM_BYTES} none \"$0\" && exec \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(folder.path())
            .args(then);
        command.env(ROLE, folder.path()).status().is_ok_and(|status| status.success())
    };
    if !unshare(&["true".to_owned()]) {
        eprintln!("skipped: a full disk: no file system can be mounted in a user namespace here");
        return;
    }
    assert!(unshare(&this_test("faults::full_disk")), "see above");
}

#[test]
#[ignore = "needs a small file system, which another test makes"]
fn full_disk() {
    let small = PathBuf::from(env::var(ROLE).unwrap());
    let large = tempfile::tempdir_in("/dev/shm").unwrap();
    let content = large.path().join("content");
    fs::write(&content, noise(4 * ROOM_BYTES, 8)).unwrap();
    fs::create_dir(large.path().join("tree")).unwrap();
    fs::hard_link(&content, large.path().join("tree/file")).unwrap();
    fs::write(small.join("file"), b"before").unwrap();
    let check = |job: Job, name: &str| {
        let said = runtime().block_on(job.run(Line::Pieces(1 << 16))).refused();
        let words = format!("{name}: cannot write it: No space left on device");
        assert!(said.contains(&words), "{}: {said}", job.verb);
        assert_eq!(fs::read(small.join("file")).unwrap(), b"before");
        assert_eq!(partials(&small), Vec::<PathBuf>::new());
    };
    check(Job::new("send-file", &small, &content, "/file"), "/file");
    check(Job::new("recv-file", large.path(), &small.join("file"), "/content"), "file");
    check(Job::new("send-dir", &small, &large.path().join("tree"), "/tree"), "file");
    check(Job::new("recv-dir", large.path(), &small.join("back"), "/tree"), "file");

    // Announced, it is refused before a byte is sent.
    runtime().block_on(async {
        let size = Some(4 * ROOM_BYTES as u64);
        let request = SendFile { path: b"/file".to_vec(), mode: None, size, resume: true };
        let (mut stream, serving, record) = connect(&small, &["/"], Line::Pieces(1 << 16));
        let file = pipeline::transfer::local_file(&content).unwrap();
        let source = Source::File { file, shown: b"content".to_vec() };
        let sent =
            client::upload(&mut stream, &Request::SendFile(request), source, Meter::default(), PATIENCE)
                .await;
        assert!(sent.unwrap_err().to_string().contains("make room for it: No space left"));
        drop(stream);
        assert!(serving.await.unwrap().is_err());
        assert_eq!(boundaries(&record.lock().unwrap().up).len(), 1, "the request, and nothing more");
    });
}

#[test]
fn the_transfer_of_the_specification_arrives() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec/vectors/transfer.json"));
    let all: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    let hex = |value: &serde_json::Value| {
        let digits = value.as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect::<Vec<_>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let total = runtime().block_on(async {
        let job = Job::new("send-dir", folder.path(), Path::new("unused"), "/tree");
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(serve(server, job.root.clone(), reach(&["/"])));
        let mut first = pipeline::frame::FrameWriter::new(&mut client);
        first.send(Kind::Request, &job.request().encode().unwrap()).await.unwrap();
        client.write_all(&hex(&all["transfer"]["sender"])).await.unwrap();
        let mut reader = FrameReader::new(client);
        let accepted = reader.next().await.unwrap().unwrap();
        assert_eq!(accepted.kind, Kind::Accepted);
        let have = reader.next().await.unwrap().unwrap();
        let frame = [&pipeline::frame::header(have.kind, have.payload.len())[..], &have.payload].concat();
        assert_eq!(frame, hex(&all["transfer"]["receiver"]));
        let end = reader.next().await.unwrap().unwrap();
        assert_eq!(end.kind, Kind::End);
        serving.await.unwrap().unwrap();
        Total::decode(&end.payload).unwrap()
    });
    assert_eq!(total.digest.to_vec(), hex(&all["transfer"]["digest"]));
    let tree = survey(&folder.path().join("tree"));
    let shape: Vec<_> =
        tree.iter().map(|(path, seen)| (path.to_str().unwrap(), seen.mode, seen.mtime)).collect();
    let file = (0o644, (2, 0));
    assert_eq!(
        shape,
        [
            ("", 0o755, (1, 0)),
            ("d", 0o700, (4, 0)),
            ("h", file.0, file.1),
            ("hello", file.0, file.1),
            ("l", 0, (3, 0))
        ]
    );
}
