//! What networks say that cannot be had on loopback: each test makes a network namespace of its own.

use std::process::{Child, Command, Stdio};

use super::*;

/// A namespace with a network that swallows everything, and the program in it. Ends with the test.
struct Namespace {
    name: String,
    program: Option<Child>,
    dir: tempfile::TempDir,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

impl Namespace {
    /// `None`, said aloud, where this machine does not let us make one.
    fn make(purpose: &str) -> Option<Self> {
        let name = format!("egress-{purpose}-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: network namespaces cannot be made here (root and iproute2 are needed)");
            return None;
        }
        let space = Self { name, program: None, dir: tempfile::tempdir().unwrap() };
        for line in [
            "link set lo up",
            "link add out type veth peer name wall",
            "link set out up",
            "link set wall up",
            "addr add 203.0.113.1/24 dev out",
            // Who is asked for by a hardware address that nobody has does not answer.
            "neigh add 203.0.113.9 lladdr 02:00:00:00:00:09 dev out nud permanent",
            "route add unreachable 192.0.2.1",
            "route add prohibit 192.0.2.2",
            "route add blackhole 192.0.2.3",
        ] {
            space.ip(line);
        }
        Some(space)
    }

    fn ip(&self, line: &str) {
        let status = Command::new("ip").args(["-n", &self.name]).args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip {line}");
    }

    async fn start(&mut self, extra: &[&str]) -> Addr {
        let addr = Addr::Unix(self.dir.path().join("egress"));
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.name,
            env!("CARGO_BIN_EXE_pf-proxy"),
            "forward-host",
            "--listen",
        ]);
        self.program = Some(command.arg(addr.to_string()).args(extra).spawn().unwrap());
        let listening = async {
            while Stream::connect(&addr, PATIENCE).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, listening).await.unwrap();
        addr
    }
}

async fn status_at(addr: &Addr, target: &str) -> Status {
    let mut stream = Stream::connect(addr, PATIENCE).await.unwrap();
    stream.write_all(&request(target).encode()).await.unwrap();
    reply(&mut stream).await.status
}

#[tokio::test]
async fn each_failure_of_a_network_is_told_as_what_it_is() {
    let Some(mut space) = Namespace::make("errors") else { return };
    let addr = space.start(&["--dial-timeout", "1"]).await;
    for (target, expected) in [
        ("203.0.113.1:9", Status::Refused),
        ("203.0.113.9:9", Status::TimedOut),
        ("192.0.2.1:9", Status::HostUnreachable),
        ("192.0.2.2:9", Status::HostUnreachable),
        ("192.0.2.3:9", Status::HostUnreachable),
        ("198.51.100.1:9", Status::NetworkUnreachable),
        ("[2001:db8::1]:9", Status::NetworkUnreachable),
        ("169.254.169.254:80", Status::Denied),
        ("udp:198.51.100.1:9", Status::NetworkUnreachable),
    ] {
        assert_eq!(status_at(&addr, target).await, expected, "{target}");
    }
}

#[tokio::test]
async fn metadata_is_reached_only_by_who_lists_it() {
    let Some(mut space) = Namespace::make("metadata") else { return };
    space.ip("addr add 169.254.169.254/32 dev lo");
    let addr = space.start(&["--allow", "0.0.0.0/0:*", "--allow", "169.254.0.0/16:*"]).await;
    assert_eq!(status_at(&addr, "169.254.169.254:80").await, Status::Denied);
    drop(space);

    let Some(mut space) = Namespace::make("listed") else { return };
    space.ip("addr add 169.254.169.254/32 dev lo");
    let addr = space.start(&["--allow", "169.254.169.254:80"]).await;
    // Nobody listens there, but somebody could.
    assert_eq!(status_at(&addr, "169.254.169.254:80").await, Status::Refused);
}
