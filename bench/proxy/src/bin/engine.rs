//! The data path alone: one plain route on the engine that `pf-proxy` runs on.
//!
//! Usage: engine LISTEN=TARGET [THREADS]
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use relay::{Client, Dial, Engine, LinkOptions, Report, Service, Target, Verdict};
use transport::ListenSocket;

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

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let (listen, target) = words[0].split_once('=').expect("LISTEN=TARGET");
    let threads = words.get(1).map_or_else(Engine::default_threads, |text| text.parse().expect("a number of threads"));
    let target = Target::new(&target.parse().expect("an address")).expect("can be dialled");
    let dial = Dial::new(Arc::new(target), Duration::from_secs(5), Arc::new(LinkOptions::default()));
    let socket = ListenSocket::bind(&listen.parse().expect("an address")).expect("bound");
    let engine = Engine::start(threads).expect("started");
    let _door = engine.open(socket, Arc::new(Plain(dial)));
    loop {
        std::thread::park();
    }
}
