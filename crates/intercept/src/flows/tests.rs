#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "a test may stop"
)]

use super::*;
use crate::packet::tests::{checksums_are_right, tcp};

const LISTENERS: Listeners = Listeners { v4: 7000, v6: 7001 };

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct Bench {
    flows: Flows,
    now: Instant,
}

impl Bench {
    fn new(limit: usize) -> Self {
        Self { flows: Flows::new(LISTENERS, limit), now: Instant::now() }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32) -> (Step, Vec<u8>) {
        let mut frame = tcp(from, to, flags, sequence, b"", true);
        let packet = Packet::parse(&frame[10..]).unwrap();
        let step = self.flows.take(self.now, &mut frame, &packet);
        (step, frame)
    }

    fn ask(&mut self, from: SocketAddr, to: SocketAddr) -> Wanted {
        match self.send(from, to, SYN, 100).0 {
            Step::Ask(wanted) => wanted,
            other => panic!("{other:?}"),
        }
    }

    /// Whom the packet is from and to after it was taken.
    fn carried(&mut self, from: SocketAddr, to: SocketAddr, flags: u8) -> (SocketAddr, SocketAddr) {
        let (step, frame) = self.send(from, to, flags, 101);
        assert_eq!(step, Step::Write);
        assert!(checksums_are_right(&frame[10..]));
        let packet = Packet::parse(&frame[10..]).unwrap();
        (packet.from, packet.to)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.flows.expire(self.now);
    }
}

fn ends() -> [(SocketAddr, SocketAddr, SocketAddr); 2] {
    [
        (address("198.18.0.1:4000"), address("192.0.2.9:443"), address("198.18.0.1:7000")),
        (
            address("[fd67:6c61:7373::1]:4000"),
            address("[2001:db8::9]:443"),
            address("[fd67:6c61:7373::1]:7001"),
        ),
    ]
}

#[test]
fn both_ends_of_a_connection_meet_at_the_listener() {
    for (client, server, listener) in ends() {
        let mut bench = Bench::new(10);
        let wanted = bench.ask(client, server);
        assert_eq!((wanted.client, wanted.destination), (client, server));
        // The program tries again while the answer is awaited.
        assert_eq!(bench.send(client, server, SYN, 100).0, Step::Drop);
        let frame = bench.flows.decide(bench.now, wanted.peer, Decision::Connected).unwrap();
        assert!(checksums_are_right(&frame[10..]));
        let first = Packet::parse(&frame[10..]).unwrap();
        assert_eq!((first.from, first.to), (wanted.peer, listener));
        assert_eq!(bench.carried(listener, wanted.peer, SYN | ACK), (server, client));
        assert_eq!(bench.carried(client, server, ACK), (wanted.peer, listener));
        assert_eq!(bench.flows.decide(bench.now, wanted.peer, Decision::Refused), None);
    }
}

#[test]
fn a_refusal_is_told_in_the_way_the_kernel_understands() {
    for (client, server, _) in ends() {
        let mut bench = Bench::new(10);
        let wanted = bench.ask(client, server);
        let frame = bench.flows.decide(bench.now, wanted.peer, Decision::Refused).unwrap();
        let reset = Packet::parse(&frame[10..]).unwrap();
        assert!(
            matches!(reset.transport, Transport::Tcp { acknowledged: 101, flags, .. } if flags == RST | ACK)
        );
        // The kernel was busy with the socket, and asks again.
        assert_eq!(bench.send(client, server, SYN, 100).0, Step::Answer(frame));
        // Another attempt from the same port is another connection.
        assert!(
            matches!(bench.send(client, server, SYN, 900).0, Step::Ask(other) if other.peer != wanted.peer)
        );

        let mut bench = Bench::new(10);
        let wanted = bench.ask(client, server);
        let why = Decision::Unreachable(Unreachable::Forbidden);
        let frame = bench.flows.decide(bench.now, wanted.peer, why).unwrap();
        assert!(checksums_are_right(&frame[10..]));
        assert!(matches!(Packet::parse(&frame[10..]).unwrap().transport, Transport::Other(1 | 58)));
    }
}

#[test]
fn silence_lasts_as_long_as_the_kernel_tries() {
    let (client, server, _) = ends()[0];
    let mut bench = Bench::new(10);
    let wanted = bench.ask(client, server);
    assert_eq!(bench.flows.decide(bench.now, wanted.peer, Decision::Silent), None);
    for seconds in [1, 2, 4, 8, 16, 32, 64] {
        bench.pass(Duration::from_secs(seconds));
        assert_eq!(bench.send(client, server, SYN, 100).0, Step::Drop);
    }
    bench.pass(SILENT + Duration::from_secs(1));
    assert!(bench.flows.is_empty() && bench.flows.peers.is_empty());
}

#[test]
fn what_belongs_to_no_connection_is_reset_or_dropped() {
    let (client, server, listener) = ends()[0];
    let mut bench = Bench::new(10);
    assert!(matches!(bench.send(client, server, ACK, 5).0, Step::Answer(_)));
    assert_eq!(bench.send(client, server, RST, 5).0, Step::Drop);
    // The listener's end of a connection that is forgotten.
    assert!(matches!(bench.send(listener, address("198.18.128.0:1024"), ACK, 5).0, Step::Answer(_)));
    // Nobody in the enclave has another address on this device.
    assert_eq!(bench.send(address("10.0.0.1:5"), server, SYN, 5).0, Step::Drop);
    assert!(bench.flows.is_empty());
}

#[test]
fn a_program_that_gives_up_is_not_answered() {
    let (client, server, _) = ends()[0];
    let mut bench = Bench::new(10);
    let wanted = bench.ask(client, server);
    assert!(bench.flows.awaits(wanted.peer));
    assert_eq!(bench.send(client, server, RST, 101).0, Step::Drop);
    assert!(!bench.flows.awaits(wanted.peer));
    assert_eq!(bench.flows.decide(bench.now, wanted.peer, Decision::Connected), None);
}

#[test]
fn ended_connections_are_forgotten_in_time() {
    let (client, server, listener) = ends()[0];
    let mut bench = Bench::new(10);
    let wanted = bench.ask(client, server);
    bench.flows.decide(bench.now, wanted.peer, Decision::Connected).unwrap();
    bench.carried(client, server, FIN | ACK);
    bench.pass(ENDED * 2);
    // Half closed is not closed.
    assert_eq!(bench.flows.len(), 1);
    bench.carried(listener, wanted.peer, FIN | ACK);
    bench.pass(ENDED);
    assert_eq!(bench.carried(client, server, ACK).1, listener);
    bench.pass(ENDED + Duration::from_secs(1));
    assert!(bench.flows.is_empty() && bench.flows.peers.is_empty());

    let wanted = bench.ask(client, server);
    bench.flows.decide(bench.now, wanted.peer, Decision::Connected).unwrap();
    assert_eq!(bench.carried(client, server, RST), (wanted.peer, listener));
    bench.pass(BROKEN + Duration::from_secs(1));
    assert!(bench.flows.is_empty());
}

#[test]
fn the_table_has_an_end_and_makes_room_from_what_is_over() {
    let (_, server, _) = ends()[0];
    let mut bench = Bench::new(3);
    let client = |port| SocketAddr::new(address("198.18.0.1:0").ip(), port);
    let wanted: Vec<_> = (1..=3).map(|port| bench.ask(client(port), server)).collect();
    assert_eq!(bench.send(client(4), server, SYN, 1).0, Step::Drop);
    bench.flows.decide(bench.now, wanted[0].peer, Decision::Refused);
    assert!(matches!(bench.send(client(4), server, SYN, 1).0, Step::Ask(_)));
    assert_eq!(bench.send(client(5), server, SYN, 1).0, Step::Drop);
    assert_eq!(bench.flows.len(), 3);
}

#[test]
fn peers_are_used_in_turn_and_never_twice_at_once() {
    let (client, server, _) = ends()[0];
    let mut bench = Bench::new(10);
    let first = bench.ask(client, server).peer;
    assert_eq!(first, address("198.18.128.0:1024"));
    bench.flows.next = PEER_PORTS - 1;
    assert_eq!(bench.ask(address("198.18.0.1:2"), server).peer, address("198.18.128.0:61023"));
    assert_eq!(bench.ask(address("198.18.0.1:3"), server).peer, address("198.18.128.1:1024"));
    bench.flows.next = PEER_PORTS * PEER_ADDRESSES - 1;
    assert_eq!(bench.ask(address("198.18.0.1:4"), server).peer, address("198.18.255.255:61023"));
    // The first is still in use.
    assert_eq!(bench.ask(address("198.18.0.1:5"), server).peer, address("198.18.128.0:1025"));
}

#[test]
fn without_ipv6_nothing_of_it_is_taken() {
    let (client, server, _) = ends()[1];
    let mut bench = Bench::new(10);
    bench.flows.listeners.v6 = 0;
    assert_eq!(bench.send(client, server, SYN, 1).0, Step::Drop);
}
