//! A host whose enclave takes every descriptor there is. Alone in its file, since it takes them from the whole process.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::{fs::File, time::Duration};

use egress::{
    Destination, Protocol,
    wire::{REPLY_BYTES, Reply, Request, Status},
};
use pf_proxy::host::{Guard, Host, HostOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};
use transport::{Addr, Stream};

const PATIENCE: Duration = Duration::from_secs(60);

async fn ask(addr: &Addr, port: u16) -> Option<(Stream, Status)> {
    let destination = Destination::Address("127.0.0.1".parse().unwrap());
    let request = Request::Connect { protocol: Protocol::Tcp, destination, port, timeout_ms: 0 };
    let mut stream = Stream::connect(addr, PATIENCE).await.ok()?;
    stream.write_all(&request.encode()).await.ok()?;
    let mut reply = [0; REPLY_BYTES];
    timeout(PATIENCE, stream.read_exact(&mut reply)).await.ok()?.ok()?;
    Some((stream, Reply::decode(&reply).unwrap().status))
}

#[tokio::test]
async fn a_host_without_descriptors_says_so_and_recovers() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let guard = Guard::new(None, &["127.0.0.1:*".parse().unwrap()], &[]).unwrap();
    // In memory, so that the enclave's own end takes no descriptors.
    let host = Host::bind(&Addr::Memory("descriptors".into()), guard, HostOptions::default()).await.unwrap();
    let addr = host.local_addr().clone();
    let serving = tokio::spawn(async move { drop(host.run(std::future::pending()).await) });
    assert_eq!(ask(&addr, port).await.unwrap().1, Status::Connected);

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..limit }).unwrap();
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert_eq!(ask(&addr, port).await.unwrap().1, Status::Busy);
    drop(taken);
    let recovered = async {
        while ask(&addr, port).await.is_none_or(|(_, status)| status != Status::Connected) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, recovered).await.unwrap();
    serving.abort();
}
