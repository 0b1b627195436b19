//! The program itself: arguments in, readiness and exit status out.

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nsm::sim::{DevelopmentRoot, SimulatedNsm, serve_module};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use transport::Addr;

use crate::client::{PATIENCE, get};
use crate::enclave::names_in;

fn ra_web_srv(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ra-web-srv"));
    let unix = |name: &str| Addr::Unix(dir.path().join(name)).to_string();
    command.args(["--listen", &unix("https.sock"), "--api", &unix("api.sock")]);
    command.arg("--nsm").arg(dir.path().join("nsm"));
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).env_remove("RUST_LOG").stderr(Stdio::piped());
    command
}

async fn exit_code(mut child: Child) -> Option<i32> {
    let waiting = async {
        loop {
            match child.try_wait().unwrap() {
                Some(status) => return status.code(),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the program did not end")
}

#[tokio::test]
async fn says_ready_serves_and_ends_with_0_at_sigterm_leaving_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = DevelopmentRoot::load_or_create(dir.path()).unwrap();
    let module = SimulatedNsm::new(&root, "i-0-enc0", &[]).unwrap();
    let nsm = UnixListener::bind(dir.path().join("nsm")).unwrap();
    let _serving = serve_module(nsm, Arc::new(module)).unwrap();
    let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let before = names_in(dir.path());

    let server = ra_web_srv(&dir).spawn().unwrap();
    let mut message = [0; 64];
    let length = notify.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    let https = Addr::Unix(dir.path().join("https.sock"));
    let (answer, _) = get(&https, "/v1/attestation?nonce=0011223344556677", None).await;
    assert_eq!(answer.status, 200);
    let (answer, _) = get(&https, "/v1/manifest", None).await;
    assert_eq!(answer.refusal(), (404, "no_manifest".to_owned()));

    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(exit_code(server).await, Some(0));
    assert_eq!(names_in(dir.path()), before);
}

#[tokio::test]
async fn without_a_module_it_says_where_it_looked_and_ends_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let output = ra_web_srv(&dir).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no Nitro Security Module at"), "{said}");
    assert_eq!(names_in(dir.path()), Vec::<String>::new());
}
