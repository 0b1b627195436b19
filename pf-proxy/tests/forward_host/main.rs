//! The host's end of the way out, asked as an enclave asks it.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod abuse;
mod connections;
mod datagrams;
mod names;
mod namespaces;
mod questions;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use egress::{
    Destination, Name, Protocol, Rule,
    wire::{REPLY_BYTES, Reply, Request, Status},
};
use pf_proxy::host::{Guard, Host, HostOptions, Resolve, Resolving};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use transport::{Addr, Stream};

const PATIENCE: Duration = Duration::from_secs(60);

/// A host that serves until it is dropped.
struct Serving {
    addr: Addr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Names with fixed addresses.
struct Fixed(BTreeMap<Name, Vec<IpAddr>>);

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(async { self.0.get(name).cloned().ok_or(Status::NameNotFound) })
    }
}

fn fixed(names: &[(&str, &[&str])]) -> Arc<dyn Resolve> {
    let parse = |addresses: &[&str]| addresses.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(Fixed(names.iter().map(|(name, list)| (name.parse().unwrap(), parse(list))).collect()))
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Loopback is special, so what is to be reached there is listed.
fn guard(allow: &[&str]) -> Guard {
    Guard::new(None, &rules(allow), &[]).unwrap()
}

fn unused_address() -> Addr {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Addr::Memory(format!("egress-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

async fn serve(
    addr: &Addr,
    guard: Guard,
    options: HostOptions,
    resolver: Option<Arc<dyn Resolve>>,
) -> Serving {
    let host = Host::bind(addr, guard, options).await.unwrap();
    let addr = host.local_addr().clone();
    let host = match resolver {
        Some(resolver) => host.with_resolver(resolver),
        None => host,
    };
    let task = tokio::spawn(async move { drop(host.run(std::future::pending()).await) });
    Serving { addr, task }
}

async fn start(allow: &[&str], names: &[(&str, &[&str])]) -> Serving {
    serve(&unused_address(), guard(allow), HostOptions::default(), Some(fixed(names))).await
}

/// `NAME:PORT`, `udp:ADDRESS:PORT`: what a rule about one peer says.
fn request(target: &str) -> Request {
    let rule: Rule = target.parse().unwrap();
    let destination = match rule.pattern() {
        egress::Pattern::Name(name) => Destination::Name(name.clone()),
        egress::Pattern::Network(network) => Destination::Address(network.address()),
        other => panic!("{other} is not one peer"),
    };
    Request::Connect { protocol: rule.protocol(), destination, port: rule.ports().first(), timeout_ms: 0 }
}

async fn reply(stream: &mut Stream) -> Reply {
    let mut bytes = [0; REPLY_BYTES];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    Reply::decode(&bytes).unwrap()
}

async fn ask(host: &Serving, request: &Request) -> (Stream, Reply) {
    let mut stream = Stream::connect(&host.addr, PATIENCE).await.unwrap();
    stream.write_all(&request.encode()).await.unwrap();
    let reply = reply(&mut stream).await;
    (stream, reply)
}

async fn status(host: &Serving, target: &str) -> (Status, Option<IpAddr>) {
    let (_, reply) = ask(host, &request(target)).await;
    (reply.status, reply.address)
}

fn resolved(name: &str, address: &str, port: u16) -> Request {
    let destination = Destination::Resolved(name.parse().unwrap(), address.parse().unwrap());
    Request::Connect { protocol: Protocol::Tcp, destination, port, timeout_ms: 0 }
}

/// A UDP socket whose port answers nobody: it is connected to a port that never says anything, so that what others send is
/// for nobody. It keeps the port from those who would answer.
async fn deaf() -> tokio::net::UdpSocket {
    let deaf = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    deaf.connect("127.0.0.1:9").await.unwrap();
    deaf
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}
