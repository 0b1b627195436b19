#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "a test may stop"
)]

use proptest::prelude::*;

use super::*;
use crate::packet::tests::{checksums_are_right, tcp};

fn pairs() -> [(SocketAddr, SocketAddr); 2] {
    [("198.18.0.1:4000", "192.0.2.9:443"), ("[fd67:6c61:7373::1]:4000", "[2001:db8::9]:443")]
        .map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()))
}

#[test]
fn a_reset_answers_what_was_sent() {
    for (from, to) in pairs() {
        let syn = tcp(from, to, SYN, 1000, b"", true);
        let packet = Packet::parse(&syn[10..]).unwrap();
        let answer = reset(&packet).unwrap();
        assert!(checksums_are_right(&answer[10..]));
        let answer = Packet::parse(&answer[10..]).unwrap();
        assert_eq!((answer.from, answer.to), (to, from));
        assert_eq!(answer.transport, Transport::Tcp { sequence: 0, acknowledged: 1001, flags: RST | ACK });

        let data = tcp(from, to, ACK | FIN, 1000, b"12345", true);
        let answer = reset(&Packet::parse(&data[10..]).unwrap()).unwrap();
        let answer = Packet::parse(&answer[10..]).unwrap();
        assert_eq!(answer.transport, Transport::Tcp { sequence: 77, acknowledged: 0, flags: RST });

        let other = tcp(from, to, RST, 1000, b"", true);
        assert_eq!(reset(&Packet::parse(&other[10..]).unwrap()), None);
    }
}

#[test]
fn what_is_unreachable_is_quoted() {
    for (from, to) in pairs() {
        let syn = &tcp(from, to, SYN, 1000, &[7; 300], true)[10..];
        let packet = Packet::parse(syn).unwrap();
        let four = from.is_ipv4();
        for (why, code4, code6) in [
            (Unreachable::Port, 3, 4),
            (Unreachable::Host, 1, 3),
            (Unreachable::Network, 0, 0),
            (Unreachable::Forbidden, 13, 1),
        ] {
            let answer = unreachable(syn, &packet, why).unwrap();
            assert!(checksums_are_right(&answer[10..]), "{from} {why:?}");
            let outer = Packet::parse(&answer[10..]).unwrap();
            assert_eq!(outer.to.ip(), from.ip());
            let message = outer.payload(&answer[10..]);
            assert_eq!(message[..2], if four { [3, code4] } else { [1, code6] });
            assert_eq!(message[8..], syn[..128]);
        }
    }
}

proptest! {
    #[test]
    fn a_datagram_arrives_as_it_was_sent(payload in proptest::collection::vec(any::<u8>(), 0..1500), v6 in any::<bool>()) {
        let (from, to) = pairs()[usize::from(v6)];
        let frame = datagram(from, to, &payload).unwrap();
        prop_assert!(checksums_are_right(&frame[10..]));
        let packet = Packet::parse(&frame[10..]).unwrap();
        prop_assert_eq!((packet.from, packet.to, packet.transport), (from, to, Transport::Udp));
        prop_assert_eq!(packet.payload(&frame[10..]), &payload[..]);
    }
}

#[test]
fn a_datagram_that_fits_no_packet_is_none() {
    let [(from, to), (six, _)] = pairs();
    assert!(datagram(from, to, &[0; MAX_DATAGRAM_BYTES]).is_some());
    assert_eq!(datagram(from, to, &[0; MAX_DATAGRAM_BYTES + 1]), None);
    assert_eq!(datagram(from, six, b"x"), None);
}

/// A checksum of zero means that there is none, so a sum that comes out as zero is sent as its other form.
#[test]
fn no_datagram_is_sent_without_a_checksum() {
    let (from, to) = pairs()[0];
    let zero = (0..=u16::MAX).map(|word| datagram(from, to, &word.to_be_bytes()).unwrap());
    let sums: std::collections::HashSet<_> = zero.map(|frame| [frame[36], frame[37]]).collect();
    assert!(sums.contains(&[0xff, 0xff]) && !sums.contains(&[0, 0]));
}
