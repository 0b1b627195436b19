#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "a test may stop"
)]

use proptest::prelude::*;

use super::*;

/// A checksum as RFC 1071 defines it, by another way than the code under test: arithmetic modulo 65535.
pub(crate) fn residue(parts: &[&[u8]]) -> u32 {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let word = |pair: &[u8]| u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).fold(0, |sum, word| (sum + word) % 65_535)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Whether the checksums of a whole packet are right.
pub(crate) fn checksums_are_right(bytes: &[u8]) -> bool {
    let packet = Packet::parse(bytes).unwrap();
    let header_is_right = packet.from.is_ipv6() || residue(&[&bytes[..packet.header_at]]) == 0;
    let transport = &bytes[packet.header_at..packet.end];
    let protocol = if packet.from.is_ipv4() { bytes[9] } else { bytes[6] };
    let length = u16::try_from(transport.len()).unwrap().to_be_bytes();
    let pseudo = [&octets(packet.from.ip())[..], &octets(packet.to.ip()), &[0, protocol], &length].concat();
    let pseudo: &[u8] = if protocol == 1 { &[] } else { &pseudo };
    header_is_right && residue(&[pseudo, transport]) == 0
}

/// A TCP packet in a frame, with its checksum finished or with the pseudo header's sum only.
pub(crate) fn tcp(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    sequence: u32,
    payload: &[u8],
    finished: bool,
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(77_u32.to_be_bytes());
    segment.extend([5 << 4, flags, 1, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    let length = u16::try_from(segment.len()).unwrap();
    let (from, to) = (octets(from.ip()), octets(to.ip()));
    let pseudo = [&from[..], &to, &[0, TCP], &length.to_be_bytes()].concat();
    let parts: &[&[u8]] = if finished { &[&pseudo, &segment] } else { &[&pseudo] };
    let sum = u16::try_from(residue(parts)).unwrap();
    let sum = if finished { !sum } else { sum };
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![u8::from(!finished); 1];
    frame.extend([0; 9]);
    if from.len() == 4 {
        let mut header = vec![0x45, 0];
        header.extend((length + 20).to_be_bytes());
        header.extend([1, 2, 0x40, 0, 64, TCP, 0, 0]);
        header.extend(&from);
        header.extend(&to);
        let sum = !u16::try_from(residue(&[&header])).unwrap();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
    } else {
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([TCP, 64]);
        frame.extend(&from);
        frame.extend(&to);
    }
    frame.extend(segment);
    frame
}

fn ends(v6: bool) -> impl Strategy<Value = [SocketAddr; 4]> {
    let address = move || {
        if v6 {
            any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
        } else {
            any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
        }
    };
    let end = move || (address(), any::<u16>()).prop_map(SocketAddr::from);
    [end(), end(), end(), end()]
}

proptest! {
    #[test]
    fn readdressed_packets_are_right(
        ends in prop_oneof![ends(false), ends(true)],
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        finished in any::<bool>(),
    ) {
        let [from, to, new_from, new_to] = ends;
        let mut frame = tcp(from, to, ACK, 5, &payload, finished);
        let packet = Packet::parse(&frame[10..]).unwrap();
        prop_assert_eq!((packet.from, packet.to, packet.payload(&frame[10..])), (from, to, &payload[..]));
        readdress(&mut frame, &packet, new_from, new_to).unwrap();
        let packet = Packet::parse(&frame[10..]).unwrap();
        prop_assert_eq!((packet.from, packet.to, packet.payload(&frame[10..])), (new_from, new_to, &payload[..]));
        if finished {
            prop_assert!(checksums_are_right(&frame[10..]));
        } else {
            // What a device with checksum offload would send in its stead.
            let expected = tcp(new_from, new_to, ACK, 5, &payload, false);
            let at = 10 + packet.header_at + 16;
            let sums = [&frame, &expected].map(|f| residue(&[&f[at..at + 2]]));
            prop_assert_eq!(sums[0], sums[1]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0_u8..2) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = if version == 0 { 0x45 } else { 0x60 };
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert!(packet.header_at <= packet.payload_at && packet.payload_at <= packet.end);
            prop_assert!(packet.end <= bytes.len());
        }
    }
}

#[test]
fn packets_that_are_not_whole_are_refused() {
    let from = "198.18.0.1:1".parse().unwrap();
    let to = "192.0.2.1:2".parse().unwrap();
    let whole = tcp(from, to, SYN, 1, b"abc", true)[10..].to_vec();
    for length in 0..whole.len() {
        assert_eq!(Packet::parse(&whole[..length]), Err(Malformed::Truncated), "{length}");
    }
    let changed = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        Packet::parse(&bytes)
    };
    assert_eq!(changed(0, 0x55), Err(Malformed::Version(5)));
    assert_eq!(changed(0, 0x44), Err(Malformed::Length));
    assert_eq!(changed(6, 0x20), Err(Malformed::Fragment));
    assert_eq!(changed(7, 1), Err(Malformed::Fragment));
    assert_eq!(changed(3, 39), Err(Malformed::Truncated));
    assert_eq!(changed(32, 0x40), Err(Malformed::Length));
    assert_eq!(changed(32, 0xf0), Err(Malformed::Truncated));
    assert!(changed(6, 0x40).is_ok());
    let six = tcp("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap(), SYN, 1, b"", true);
    let mut six = six[10..].to_vec();
    assert!(Packet::parse(&six).is_ok());
    six[6] = 44;
    assert_eq!(Packet::parse(&six), Err(Malformed::Fragment));
}

#[test]
fn addresses_of_two_families_are_not_mixed() {
    let (from, to) = ("198.18.0.1:1".parse().unwrap(), "192.0.2.1:2".parse().unwrap());
    let mut frame = tcp(from, to, SYN, 1, b"", true);
    let packet = Packet::parse(&frame[10..]).unwrap();
    let six = "[2001:db8::1]:1".parse().unwrap();
    assert_eq!(readdress(&mut frame, &packet, from, six), Err(Malformed::Family));
}
