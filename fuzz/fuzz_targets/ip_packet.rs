//! IP packets from the device: what is taken for one keeps its bounds, and what is answered can be read again.

#![no_main]

use std::time::Instant;

use intercept::{
    answer::{self, Unreachable},
    flows::{Decision, Flows, Listeners, Step},
    packet::{Packet, Transport, VNET_HEADER_BYTES},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(packet) = Packet::parse(data) else { return };
    assert!(packet.payload_at <= packet.end && packet.end <= data.len());
    if let Some(frame) = answer::unreachable(data, &packet, Unreachable::Forbidden) {
        assert!(Packet::parse(&frame[VNET_HEADER_BYTES..]).is_ok());
    }
    if !matches!(packet.transport, Transport::Tcp { .. }) {
        return;
    }
    let mut flows = Flows::new(Listeners { v4: 1, v6: 2 }, 4);
    let now = Instant::now();
    let mut frame = [&[0; VNET_HEADER_BYTES][..], data].concat();
    if let Step::Ask(wanted) = flows.take(now, &mut frame, &packet) {
        let frame = flows.decide(now, wanted.peer, Decision::Connected).expect("it was asked about");
        let turned = Packet::parse(&frame[VNET_HEADER_BYTES..]).expect("it was a packet before");
        assert_eq!(turned.from, wanted.peer);
    }
});
