//! Peers that misbehave, by seeds: what arrives is exact, what is cut is known to be cut, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::{Cause, Engine, LinkOptions, Report};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

const SEEDS: u64 = 2000;

/// More than any seed needs, many times over.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long stalled connections live.
const IDLE: Duration = Duration::from_millis(60);

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Sends everything, ends, and reads to the end.
    Good,
    /// Breaks off with a reset after so many bytes sent.
    Reset(usize),
    /// Closes after so many bytes sent, without a word.
    Death(usize),
    /// Does nothing any more after so many bytes sent.
    Stall(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    End,
    Broken,
}

struct Peer {
    socket: Option<OwnedFd>,
    is_tcp: bool,
    plan: Plan,
    content: Arc<Vec<u8>>,
    to_send: usize,
    sent: usize,
    has_ended: bool,
    received: usize,
    reading: Outcome,
    /// Has been told of a failure by a write: the system tells it once, and reading sees an end then.
    knows: bool,
    /// The largest read or write.
    step: usize,
}

fn content(salt: usize, length: usize) -> Arc<Vec<u8>> {
    Arc::new((0..length).map(|at| u8::try_from((at * 31 + at / 251 + salt) % 256).unwrap()).collect())
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_tcp, plan, to_send, sent, has_ended, received, reading, knows, step, .. } = self;
        write!(f, "tcp {is_tcp} {plan:?} sent {sent}/{to_send} ended {has_ended} ")?;
        write!(f, "received {received} {reading:?} knows {knows} step {step}")
    }
}

impl Peer {
    fn new(random: &mut Random, may_fail: bool) -> (Self, OwnedFd) {
        let is_tcp = random.percent(50);
        let (outer, inner) = if is_tcp { tcp() } else { unix() };
        for socket in [&outer, &inner] {
            ioctl_fionbio(socket, true).unwrap();
            if random.percent(40) {
                sockopt::set_socket_send_buffer_size(socket, 2048 + random.below(20_000)).unwrap();
            }
        }
        let largest = [100, 5000, 50_000, 400_000][random.below(4)];
        let to_send = random.below(largest);
        let at = random.below(to_send + 1);
        let plan = match random.below(10) {
            0 if may_fail => Plan::Reset(at),
            1 if may_fail => Plan::Death(at),
            2 if may_fail && random.percent(30) => Plan::Stall(at),
            _ => Plan::Good,
        };
        let content = content(random.below(256), to_send);
        let step = [1, 100, 3000, 70_000, 300_000][random.below(5)];
        let peer = Self {
            socket: Some(outer),
            is_tcp,
            plan,
            content,
            to_send,
            sent: 0,
            has_ended: false,
            received: 0,
            reading: Outcome::Open,
            knows: false,
            step,
        };
        (peer, inner)
    }

    /// Whether there is nothing more to do.
    fn is_finished(&self) -> bool {
        let is_stalled = matches!(self.plan, Plan::Stall(at) if self.sent == at);
        is_stalled
            || self.socket.is_none()
            || self.reading != Outcome::Open && (self.has_ended || self.reading == Outcome::Broken)
    }

    fn act(&mut self, random: &mut Random, from: &PeerView) {
        let limit = match self.plan {
            Plan::Good => self.to_send,
            Plan::Reset(at) | Plan::Death(at) | Plan::Stall(at) => at,
        };
        if self.sent == limit {
            match self.plan {
                Plan::Good => self.end(),
                Plan::Reset(_) => return self.reset(),
                Plan::Death(_) => return self.socket = None,
                Plan::Stall(_) => return,
            }
        }
        if random.percent(50) { self.write(random, limit) } else { self.read(random, from) }
    }

    fn write(&mut self, random: &mut Random, limit: usize) {
        let Some(socket) = &self.socket else { return };
        let count = (1 + random.below(self.step)).min(limit - self.sent);
        if count == 0 {
            return;
        }
        match send(socket, &self.content[self.sent..self.sent + count], SendFlags::NOSIGNAL) {
            Ok(count) => self.sent += count,
            Err(Errno::AGAIN) => {}
            // Nothing gets through any more. What is there to be read is read.
            Err(_) => {
                self.to_send = self.sent;
                self.plan = Plan::Good;
                self.knows = true;
            }
        }
    }

    fn read(&mut self, random: &mut Random, from: &PeerView) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.reading == Outcome::Open) else { return };
        let mut buffer = vec![0; 1 + random.below(self.step)];
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => self.reading = Outcome::End,
            Ok((count, _)) => {
                let expected = &from.content[self.received..self.received + count];
                assert!(buffer[..count] == *expected, "other bytes from {} on", self.received);
                self.received += count;
                assert!(self.received <= from.sent);
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.reading = Outcome::Broken,
        }
    }

    fn end(&mut self) {
        if let Some(socket) = self.socket.as_ref().filter(|_| !self.has_ended) {
            self.has_ended = true;
            // The other side may have reset it.
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    fn reset(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        if self.is_tcp {
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        }
    }

    fn view(&self) -> PeerView {
        PeerView { content: Arc::clone(&self.content), sent: self.sent }
    }
}

/// What the other side has to know to judge what it gets.
struct PeerView {
    content: Arc<Vec<u8>>,
    sent: usize,
}

fn tcp() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (outer.into(), listener.accept().unwrap().0.into())
}

fn unix() -> (OwnedFd, OwnedFd) {
    let (outer, inner) = UnixStream::pair().unwrap();
    (outer.into(), inner.into())
}

fn run(engine: &Engine, seed: u64) {
    let mut random = Random(seed);
    let may_fail = random.percent(70);
    let (mut a, inner_a) = Peer::new(&mut random, may_fail);
    let (mut b, inner_b) = Peer::new(&mut random, may_fail);
    let plans = (a.plan, b.plan);
    // So that no seed takes for ever.
    let step = a.to_send.max(b.to_send) / 1000;
    (a.step, b.step) = (a.step.max(step), b.step.max(step));
    let stalls = matches!(a.plan, Plan::Stall(_)) || matches!(b.plan, Plan::Stall(_));
    let options = LinkOptions {
        idle: stalls.then_some(IDLE),
        linger: IDLE,
        as_vsock: random.percent(25),
        ..LinkOptions::default()
    };
    let relaying = engine.relay(inner_a, inner_b, &Arc::new(options));
    let start = Instant::now();
    while !(a.is_finished() && b.is_finished()) {
        assert!(start.elapsed() < PATIENCE, "seed {seed} hangs: {a:?} {b:?}");
        for _ in 0..16 {
            let (view_a, view_b) = (a.view(), b.view());
            if random.percent(50) { a.act(&mut random, &view_b) } else { b.act(&mut random, &view_a) }
        }
        if stalls {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    // Those who do nothing any more do not hear of the end.
    (a.socket, b.socket) = (None, None);
    judge(seed, plans, &a, &b, &relaying.wait());
}

fn judge(seed: u64, plans: (Plan, Plan), a: &Peer, b: &Peer, report: &Report) {
    let story = format!("seed {seed}, {plans:?}: {report:?}, {a:?}, {b:?}");
    if plans == (Plan::Good, Plan::Good) {
        assert!(matches!(report.cause, Cause::Complete), "{story}");
        assert_eq!((a.received, b.received), (b.to_send, a.to_send), "{story}");
        assert_eq!((report.a_to_b, report.b_to_a), (a.to_send as u64, b.to_send as u64), "{story}");
    }
    for (receiver, sender, plan) in [(a, b, plans.1), (b, a, plans.0)] {
        // Only TCP can tell a cut stream from a whole one: there an end must mean that all has come.
        if receiver.reading == Outcome::End && !receiver.knows && receiver.is_tcp && sender.is_tcp {
            assert_eq!(receiver.received, sender.sent, "{story}");
            assert!(!matches!(plan, Plan::Reset(_) | Plan::Stall(_)), "{story}");
        }
    }
    assert!(report.a_to_b >= b.received as u64 && report.b_to_a >= a.received as u64, "{story}");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn bytes_are_exact_and_nothing_hangs_or_leaks_with_any_misbehaving_peer() {
    let before = open_descriptors();
    let engine = Engine::start(2).unwrap();
    let only = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..SEEDS, |seed: u64| seed..seed + 1) {
        run(&engine, seed);
    }
    drop(engine);
    assert_eq!(open_descriptors(), before);
}
