//! The device between real Unix sockets and a driver made of bare guest memory, well-behaved and not.

use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::packet::TYPE_STREAM;
use crate::streams::listener_path;

const GUEST: u64 = 4;
const PARENT: u64 = 3;
const PORT: u32 = 9000;

const MEMORY_BYTES: usize = 4 << 20;
const QUEUE_SIZE: u16 = 32;

/// Each queue's descriptor table, available ring and used ring take up a page each.
const PAGE: u64 = 0x1000;
const QUEUE_PAGES: u64 = 3;

/// Where packets and buffers lie.
const BUFFERS: u64 = 0x10_0000;

/// `VIRTQ_DESC_F_NEXT`, `VIRTQ_DESC_F_WRITE` and `VIRTQ_DESC_F_INDIRECT`; see VIRTIO 1.3, section 2.7.5.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Address, length, flags and next, as in a descriptor table.
type Descriptor = (u64, u32, u16, u16);

struct Rig {
    dir: TempDir,
    device: Device,
    vrings: Vec<Vring>,
    memory: Memory,
    /// How many chains were made available on each queue.
    available: [u16; QUEUES],
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uds = dir.path().join("vm");
        let streams = Streams::new(UnixListener::bind(&uds).unwrap(), uds).unwrap();
        let memory = Memory::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap());
        let cids = Cids { guest: GUEST, host: [PARENT, 2] };
        let device = Device::new(4, cids, streams, memory.clone()).unwrap();
        let vrings = (0..QUEUES as u64).map(|queue| vring(&memory, queue)).collect();
        Self { dir, device, vrings, memory, available: [0; QUEUES] }
    }

    fn turn(&mut self) {
        self.device.turn(&self.vrings).unwrap();
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(listener_path(&self.dir.path().join("vm"), PORT)).unwrap()
    }

    fn write(&self, bytes: &[u8], address: u64) {
        self.memory.memory().write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn describe(&self, table: u64, index: u16, (address, length, flags, next): Descriptor) {
        let at = table + u64::from(index) * 16;
        self.write(&address.to_le_bytes(), at);
        self.write(&length.to_le_bytes(), at + 8);
        self.write(&flags.to_le_bytes(), at + 12);
        self.write(&next.to_le_bytes(), at + 14);
    }

    /// Makes the chain that starts at `head` available.
    fn offer(&mut self, queue: usize, head: u16) {
        let ring = avail_ring(queue as u64);
        let index = self.available[queue];
        self.write(&head.to_le_bytes(), ring + 4 + u64::from(index % QUEUE_SIZE) * 2);
        self.available[queue] = index.wrapping_add(1);
        self.write(&self.available[queue].to_le_bytes(), ring + 2);
    }

    /// The chains the device is done with, and how many bytes it wrote to each.
    fn used(&self, queue: usize) -> Vec<(u32, u32)> {
        let (memory, ring) = (self.memory.memory(), used_ring(queue as u64));
        let count: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap();
        let at = |index: u64| memory.read_obj(GuestAddress(ring + 4 + index * 4)).unwrap();
        (0..u64::from(count)).map(|index| (at(index * 2), at(index * 2 + 1))).collect()
    }

    /// Offers a packet as one descriptor and lets the device have its turn.
    fn send(&mut self, header: &Header, payload: &[u8]) {
        let packet = [&header.encode(), payload].concat();
        self.write(&packet, BUFFERS);
        let length = u32::try_from(packet.len()).unwrap();
        self.describe(desc_table(QUEUE_FROM_GUEST as u64), 0, (BUFFERS, length, 0, 0));
        self.offer(QUEUE_FROM_GUEST, 0);
        self.turn();
    }

    /// Offers `count` buffers of a page to the device.
    fn offer_buffers(&mut self, count: u16) {
        for index in 0..count {
            let address = BUFFERS + 0x10_0000 + u64::from(index) * PAGE;
            self.describe(desc_table(QUEUE_TO_GUEST as u64), index, (address, 0x1000, WRITE, 0));
            self.offer(QUEUE_TO_GUEST, index);
        }
    }

    /// The operations of the packets the guest got.
    fn received(&self) -> Vec<Op> {
        let got = self.used(QUEUE_TO_GUEST);
        got.iter().map(|(head, _)| Op::from_number(self.received_header(*head).op).unwrap()).collect()
    }

    fn received_header(&self, head: u32) -> Header {
        let mut header = [0; HEADER_BYTES];
        let address = BUFFERS + 0x10_0000 + u64::from(head) * PAGE;
        self.memory.memory().read_slice(&mut header, GuestAddress(address)).unwrap();
        Header::decode(&header)
    }

    /// A connection from the guest to a listener of the host's.
    fn open(&mut self) -> UnixStream {
        let listener = self.listen();
        self.offer_buffers(8);
        self.send(&packet(Op::Request, 0), &[]);
        assert_eq!(self.received(), [Op::Response]);
        listener.set_nonblocking(true).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

fn vring(memory: &Memory, queue: u64) -> Vring {
    let vring = Vring::new(memory.clone(), 1024).unwrap();
    vring.set_queue_size(QUEUE_SIZE);
    vring.set_queue_info(desc_table(queue), avail_ring(queue), used_ring(queue)).unwrap();
    vring.set_queue_ready(true);
    vring.set_enabled(true);
    vring
}

fn desc_table(queue: u64) -> u64 {
    PAGE * (1 + queue * QUEUE_PAGES)
}

fn avail_ring(queue: u64) -> u64 {
    desc_table(queue) + PAGE
}

fn used_ring(queue: u64) -> u64 {
    desc_table(queue) + 2 * PAGE
}

fn packet(op: Op, len: u32) -> Header {
    Header {
        src_cid: GUEST,
        dst_cid: PARENT,
        src_port: 1025,
        dst_port: PORT,
        len,
        socket_type: TYPE_STREAM,
        op: op.number(),
        buf_alloc: 1 << 18,
        ..Header::default()
    }
}

fn read(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 18];
    let count = stream.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

/// Another bridge took only packets of one or two descriptors. Linux since 6.12 splits those larger than 32 KiB, so that
/// most of a large write was lost without a word.
#[test]
fn a_packet_scattered_over_many_descriptors_arrives_whole() {
    let mut rig = Rig::new();
    let stream = rig.open();
    let payload: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let bytes = [&packet(Op::ReadWrite, 60_000).encode()[..], &payload].concat();
    // The header itself is in two pieces, and the last piece is the rest of the packet.
    let pieces = [10, 34, 1, 4096, 4096, 0, 5000, 7, 20_000, 4095];
    let mut start = 0;
    let table = desc_table(QUEUE_FROM_GUEST as u64);
    for (index, length) in (0..).zip(pieces) {
        let address = BUFFERS + u64::from(index) * 0x8000;
        rig.write(&bytes[start..start + length], address);
        rig.describe(table, index, (address, u32::try_from(length).unwrap(), NEXT, index + 1));
        start += length;
    }
    rig.write(&bytes[start..], BUFFERS + 0x6_0000);
    let rest = u32::try_from(bytes.len() - start).unwrap();
    rig.describe(table, 10, (BUFFERS + 0x6_0000, rest, 0, 0));
    rig.offer(QUEUE_FROM_GUEST, 0);
    rig.turn();
    assert!(read(&stream) == payload);
}

#[test]
fn a_packet_in_an_indirect_table_arrives() {
    let mut rig = Rig::new();
    let stream = rig.open();
    rig.write(&packet(Op::ReadWrite, 5).encode(), BUFFERS);
    rig.write(b"hello", BUFFERS + PAGE);
    let table = BUFFERS + 2 * PAGE;
    rig.describe(table, 0, (BUFFERS, 44, NEXT, 1));
    rig.describe(table, 1, (BUFFERS + PAGE, 5, 0, 0));
    rig.describe(desc_table(QUEUE_FROM_GUEST as u64), 0, (table, 32, INDIRECT, 0));
    rig.offer(QUEUE_FROM_GUEST, 0);
    rig.turn();
    assert_eq!(read(&stream), b"hello");
}

#[test]
fn data_for_the_guest_waits_for_its_buffers() {
    let mut rig = Rig::new();
    let mut stream = rig.open();
    for _ in 0..7 {
        stream.write_all(&[7; 8000]).unwrap();
    }
    rig.turn();
    let got = rig.used(QUEUE_TO_GUEST);
    assert_eq!(got.len(), 8, "every buffer offered is full");
    assert!(got[1..].iter().all(|(_, length)| *length == 0x1000));
    rig.turn();
    assert_eq!(rig.used(QUEUE_TO_GUEST).len(), 8);
    rig.offer_buffers(8);
    rig.turn();
    let total: u32 = rig.used(QUEUE_TO_GUEST)[1..].iter().map(|(_, length)| length - 44).sum();
    assert_eq!(total, 56_000);
}

#[test]
fn packets_that_make_no_sense_are_passed_over() {
    let table = desc_table(QUEUE_FROM_GUEST as u64);
    let chains: [&[Descriptor]; 11] = [
        &[(BUFFERS, 0, 0, 0)],
        &[(BUFFERS, 43, 0, 0)],
        &[(BUFFERS, 44, WRITE, 0)],
        &[(u64::MAX - 10, 44, 0, 0)],
        &[(MEMORY_BYTES as u64 - 10, 44, 0, 0)],
        &[(BUFFERS, u32::MAX, 0, 0)],
        &[(BUFFERS, 44, NEXT, 0)],
        &[(BUFFERS, 44, NEXT, QUEUE_SIZE)],
        &[(BUFFERS, 44, NEXT, 1), (BUFFERS, u32::MAX, NEXT, 0)],
        &[(table, 16, INDIRECT, 0)],
        &[(BUFFERS, 1 << 20, INDIRECT, 0)],
    ];
    let mut rig = Rig::new();
    let stream = rig.open();
    for (number, chain) in chains.iter().enumerate() {
        // A packet that could not be missed if it were taken.
        rig.write(&packet(Op::ReadWrite, u32::MAX).encode(), BUFFERS);
        for (index, descriptor) in (0..).zip(chain.iter()) {
            rig.describe(table, index, *descriptor);
        }
        rig.offer(QUEUE_FROM_GUEST, 0);
        rig.turn();
        assert_eq!(rig.used(QUEUE_FROM_GUEST).len(), number + 2, "chain {number} is not given back");
    }
    assert_eq!(rig.device.broken, [false; QUEUES]);
    // One of them was whole but for its payload, which cost it the connection. The next one works.
    drop(stream);
    let listener = rig.listen_again();
    rig.send(&Header { src_port: 2000, ..packet(Op::Request, 0) }, &[]);
    listener.accept().unwrap();
    assert_eq!(rig.received().last(), Some(&Op::Response));
}

impl Rig {
    fn listen_again(&self) -> UnixListener {
        std::fs::remove_file(listener_path(&self.dir.path().join("vm"), PORT)).unwrap();
        let listener = self.listen();
        listener.set_nonblocking(true).unwrap();
        listener
    }
}

#[test]
fn buffers_that_make_no_sense_are_given_back_empty() {
    let table = desc_table(QUEUE_TO_GUEST as u64);
    for descriptor in [
        (BUFFERS, 44, WRITE, 0),
        (BUFFERS, 4096, 0, 0),
        (u64::MAX - 100, 4096, WRITE, 0),
        (BUFFERS, u32::MAX, WRITE, 0),
    ] {
        let mut rig = Rig::new();
        let _listener = rig.listen();
        rig.describe(table, 0, descriptor);
        rig.offer(QUEUE_TO_GUEST, 0);
        rig.send(&packet(Op::Request, 0), &[]);
        assert_eq!(rig.used(QUEUE_TO_GUEST), [(0, 0)], "{descriptor:?}");
        rig.offer_buffers(1);
        rig.turn();
        assert_eq!(rig.used(QUEUE_TO_GUEST).len(), 2, "the packet waits for a better one");
        assert_eq!(rig.received_header(0).op, Op::Response.number());
    }
}

#[test]
fn a_queue_that_contradicts_itself_is_left_alone_until_set_up_again() {
    for queue in [QUEUE_TO_GUEST, QUEUE_FROM_GUEST] {
        let mut rig = Rig::new();
        let stream = rig.open();
        // More chains available than the queue has room for.
        rig.write(&0x7000_u16.to_le_bytes(), avail_ring(queue as u64) + 2);
        (&stream).write_all(&[0; 100_000]).unwrap();
        rig.turn();
        assert!(rig.device.broken[queue], "queue {queue}");
        rig.turn();
        rig.device.stop_vring(u32::try_from(queue).unwrap()).unwrap();
        assert!(!rig.device.broken[queue]);
        let mut rest = Vec::new();
        stream.set_nonblocking(false).unwrap();
        // Unread data makes the end a reset.
        let _ = (&stream).read_to_end(&mut rest);
        assert!((&stream).write_all(b"x").is_err(), "connections end with the driver");
    }
}

#[test]
fn the_configuration_space_is_the_guests_cid() {
    let device = Rig::new().device;
    assert_eq!(device.get_config(0, 8), [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(device.get_config(4, 4), [0; 4]);
    for (offset, size) in [(8, 1), (0, 9), (u32::MAX, u32::MAX)] {
        assert!(device.get_config(offset, size).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_guest_memory_does_any_harm(
        descriptors in proptest::collection::vec(descriptor(), QUEUE_SIZE as usize),
        heads in proptest::collection::vec((0..2_usize, 0..QUEUE_SIZE + 1), 0..60),
        noise in proptest::collection::vec(any::<u8>(), 200),
    ) {
        let mut rig = Rig::new();
        let _listener = rig.listen();
        for (index, descriptor) in (0..).zip(descriptors) {
            for queue in 0..2 {
                rig.describe(desc_table(queue), index, descriptor);
            }
        }
        rig.write(&noise, BUFFERS + 44);
        for (queue, head) in heads {
            rig.write(&packet(Op::from_number(u16::from(noise[0] % 7) + 1).unwrap(), 100).encode(), BUFFERS);
            rig.offer(queue, head);
            rig.turn();
        }
    }
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![4 => Just(BUFFERS), 2 => BUFFERS..BUFFERS + 0x1000, 1 => any::<u64>(), 1 => 0..0x8000_u64];
    let length = prop_oneof![4 => 0..5000_u32, 1 => any::<u32>(), 1 => (0..40_u32).prop_map(|n| n * 16)];
    (address, length, 0..8_u16, 0..QUEUE_SIZE + 1)
}
