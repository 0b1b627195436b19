//! What an engine does with clients that it accepts itself.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::{Client, Dial, Engine, LinkOptions, Report, Service, Target, Verdict};
use transport::{Addr, ListenSocket};

const PATIENCE: Duration = Duration::from_secs(60);

struct Plain(Dial);

impl Service for Plain {
    fn admit(&self, _: &Client<'_>) -> Verdict {
        Verdict::Dial(self.0.clone())
    }

    fn ended(&self, _: Option<SocketAddr>, _: &Report) {}

    fn broken(&self, error: io::Error) {
        panic!("the listener broke: {error}");
    }
}

/// A connection that was open kept the listener of its door open, without anybody to accept there.
#[test]
fn closed_door_is_closed_at_once_and_its_connections_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, target) = (dir.path().join("listen"), dir.path().join("target"));
    let server = UnixListener::bind(&target).unwrap();
    let target = Arc::new(Target::new(&Addr::Unix(target)).unwrap());
    let dial = Dial::new(target, Duration::from_secs(5), Arc::new(LinkOptions::default()));
    let engine = Engine::start(2).unwrap();
    let door = engine.open(ListenSocket::bind(&Addr::Unix(listen.clone())).unwrap(), Arc::new(Plain(dial)));
    let mut client = UnixStream::connect(&listen).unwrap();
    let (mut served, _) = server.accept().unwrap();
    door.close();
    let start = Instant::now();
    while listen.exists() || UnixStream::connect(&listen).is_ok() {
        assert!(start.elapsed() < PATIENCE, "still listening");
        std::thread::sleep(Duration::from_millis(5));
    }
    client.write_all(b"still").unwrap();
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    served.read_exact(&mut [0; 5]).unwrap();
    door.abort();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
