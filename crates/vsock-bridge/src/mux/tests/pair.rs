//! Two cores joined by short queues, each with simulated streams, in a random order of events: whatever the order, each
//! stream gets exactly the other's bytes and its end, and nothing is left behind.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::connection::MAX_DATA_BYTES;

/// Packets a queue holds.
const LINK_PACKETS: usize = 4;

/// Steps after which a run counts as stuck. A run takes a few thousand.
const MAX_STEPS: usize = 2_000_000;

/// One connection to be made.
#[derive(Clone, Debug)]
struct Plan {
    /// Which core's client asks for it.
    opener: usize,
    /// Bytes each end sends before it ends its direction.
    lengths: [usize; 2],
    /// Bytes each end's socket buffers hold.
    capacity: usize,
}

/// A stream between a core and a program.
#[derive(Debug)]
struct SimStream {
    port: u32,
    capacity: usize,
    /// The program has yet to write these, and then ends its direction.
    unsent: VecDeque<u8>,
    to_core: VecDeque<u8>,
    to_core_ended: bool,
    from_core: VecDeque<u8>,
    from_core_ended: bool,
    received: Vec<u8>,
}

impl SimStream {
    fn new(port: u32, payload: Vec<u8>, capacity: usize) -> Self {
        Self {
            port,
            capacity,
            unsent: payload.into(),
            to_core: VecDeque::new(),
            to_core_ended: false,
            from_core: VecDeque::new(),
            from_core_ended: false,
            received: Vec::new(),
        }
    }

    /// The program writes and reads a bit. Says what is news to the core.
    fn work(&mut self, amount: usize) -> Readiness {
        let room = self.capacity - self.to_core.len();
        let count = amount.min(room).min(self.unsent.len());
        self.to_core.extend(self.unsent.drain(..count));
        let ends = self.unsent.is_empty() && !self.to_core_ended;
        self.to_core_ended |= ends;
        let count = amount.min(self.from_core.len());
        self.received.extend(self.from_core.drain(..count));
        Readiness { readable: count > 0 || ends || !self.to_core.is_empty(), writable: true, hung_up: false }
    }

    fn read(&mut self, limit: usize) -> (Vec<u8>, ReadOutcome) {
        let bytes: Vec<u8> = self.to_core.drain(..limit.min(self.to_core.len())).collect();
        let outcome = match u32::try_from(bytes.len()).unwrap() {
            0 if self.to_core_ended => ReadOutcome::EndOfStream,
            0 => ReadOutcome::WouldBlock,
            count => ReadOutcome::Read(count),
        };
        (bytes, outcome)
    }

    fn write(&mut self, bytes: &[u8]) -> WriteOutcome {
        assert!(!self.from_core_ended, "written after the end");
        let count = bytes.len().min(self.capacity - self.from_core.len());
        self.from_core.extend(&bytes[..count]);
        if count == 0 { WriteOutcome::WouldBlock } else { WriteOutcome::Wrote(count) }
    }
}

struct Side {
    mux: Mux,
    streams: HashMap<Id, SimStream>,
    /// What was received on each port, in full.
    finished: HashMap<u32, Vec<u8>>,
    /// Packets under way from this side.
    link: VecDeque<(Header, Vec<u8>)>,
}

impl Side {
    fn new(cids: Cids) -> Self {
        let mut mux = Mux::new(cids, Instant::now());
        mux.set_online(true);
        Self { mux, streams: HashMap::new(), finished: HashMap::new(), link: VecDeque::new() }
    }

    fn open(&mut self, port: u32, plan: &Plan) {
        let id = self.mux.accepted().unwrap();
        let line = format!("CONNECT {port}\n");
        assert_eq!(self.mux.greet(id, line.as_bytes()), Greeted::Consume(line.len()));
        self.streams.insert(id, SimStream::new(port, payload(port, plan, plan.opener), plan.capacity));
    }

    /// Sends a packet, if there is one and the queue has room.
    fn transmit(&mut self, buffer: usize) -> bool {
        if self.link.len() >= LINK_PACKETS {
            return false;
        }
        match self.mux.transmit() {
            None => false,
            Some(Transmit::Control(header)) => {
                self.link.push_back((header, Vec::new()));
                true
            }
            Some(Transmit::Data(id, limit)) => {
                let (bytes, outcome) = self.streams.get_mut(&id).unwrap().read(buffer.min(limit as usize));
                if let Some(header) = self.mux.read(id, outcome) {
                    self.link.push_back((header, bytes));
                }
                true
            }
        }
    }

    fn act(&mut self, plans: &[Plan], side: usize) -> bool {
        let Some(action) = self.mux.next_action() else {
            return false;
        };
        match action {
            Action::Dial(id, port) => {
                let plan = &plans[port as usize];
                self.streams.insert(id, SimStream::new(port, payload(port, plan, side), plan.capacity));
                self.mux.dialled(id, DialOutcome::Connected);
            }
            Action::Write(id) => {
                let (first, second) = self.mux.outbox(id);
                let bytes = [first, second].concat();
                assert!(bytes.len() <= RECEIVE_BUFFER_BYTES as usize + 20);
                let outcome = self.streams.get_mut(&id).unwrap().write(&bytes);
                self.mux.wrote(id, outcome);
            }
            Action::ShutdownWrite(id) => self.streams.get_mut(&id).unwrap().from_core_ended = true,
            Action::ShutdownRead(id) => panic!("nobody here refuses to receive: {id:?}"),
            Action::Close(id) => {
                let mut stream = self.streams.remove(&id).unwrap();
                assert!(stream.to_core.is_empty() && stream.to_core_ended, "closed with data unread");
                stream.received.extend(stream.from_core);
                self.finished.insert(stream.port, stream.received);
            }
        }
        true
    }

    /// Answers an action in whatever way.
    fn misbehave(&mut self, action: Action, plan: &Plan, random: &mut Random) {
        match action {
            Action::Dial(id, port) => {
                let outcome =
                    [DialOutcome::Connected, DialOutcome::Busy, DialOutcome::Refused][random.below(3)];
                if outcome == DialOutcome::Connected {
                    self.streams.insert(id, SimStream::new(port, payload(port, plan, 0), plan.capacity));
                }
                self.mux.dialled(id, outcome);
            }
            Action::Write(id) => {
                let held = self.mux.outbox(id).0.len();
                assert!(held <= RECEIVE_BUFFER_BYTES as usize + 20);
                let outcomes =
                    [WriteOutcome::Wrote(random.below(5000)), WriteOutcome::WouldBlock, WriteOutcome::Failed];
                self.mux.wrote(id, outcomes[random.below(3)]);
            }
            Action::ShutdownWrite(_) | Action::ShutdownRead(_) => {}
            Action::Close(id) => {
                self.streams.remove(&id);
            }
        }
    }

    fn work(&mut self, which: usize, amount: usize) {
        let count = self.streams.len();
        if count == 0 {
            return;
        }
        let mut ids: Vec<Id> = self.streams.keys().copied().collect();
        ids.sort();
        let id = ids[which % count];
        let news = self.streams.get_mut(&id).unwrap().work(amount);
        self.mux.ready(id, news);
    }
}

fn payload(port: u32, plan: &Plan, side: usize) -> Vec<u8> {
    let seed = u64::from(port) * 2 + side as u64 + 1;
    let mut random = Random(seed);
    (0..plan.lengths[side]).map(|_| random.next().to_le_bytes()[3]).collect()
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % limit
    }
}

fn run(plans: &[Plan], seed: u64) {
    let mut random = Random(seed | 1);
    let mut sides = [
        Side::new(Cids { guest: GUEST, host: [PARENT, 2] }),
        Side::new(Cids { guest: PARENT, host: [GUEST, GUEST] }),
    ];
    for (port, plan) in plans.iter().enumerate() {
        sides[plan.opener].open(u32::try_from(port).unwrap(), plan);
    }
    for step in 0.. {
        assert!(step < MAX_STEPS, "stuck: {:?}", sides.map(|side| side.mux));
        if sides
            .iter()
            .all(|side| side.mux.connections() == 0 && side.link.is_empty() && !side.mux.wants_transmit())
        {
            break;
        }
        let side = random.below(2);
        match random.below(4) {
            0 => {
                let buffer = [1, 100, 4096, MAX_DATA_BYTES as usize][random.below(4)];
                sides[side].transmit(buffer);
            }
            1 => {
                if let Some((header, bytes)) = sides[side].link.pop_front() {
                    sides[1 - side].mux.receive(&header, &bytes);
                }
            }
            2 => {
                sides[side].act(plans, side);
            }
            _ => {
                let (which, amount) = (random.below(64), random.below(9000));
                sides[side].work(which, amount);
            }
        }
    }
    check(plans, &mut sides);
}

fn check(plans: &[Plan], sides: &mut [Side; 2]) {
    for (index, side) in sides.iter_mut().enumerate() {
        while side.act(plans, index) {}
        assert!(side.streams.is_empty());
    }
    for (port, plan) in plans.iter().enumerate() {
        let port = u32::try_from(port).unwrap();
        for (index, side) in sides.iter().enumerate() {
            let mut expected =
                if index == plan.opener { format!("OK {port}\n").into_bytes() } else { Vec::new() };
            expected.extend(payload(port, plan, 1 - index));
            let received = &side.finished[&port];
            assert!(
                *received == expected,
                "side {index}, {plan:?}: {} of {}",
                received.len(),
                expected.len()
            );
        }
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let length = prop_oneof![Just(0), 1..10_usize, 1..20_000_usize, 250_000..600_000_usize];
    (0..2_usize, length.clone(), length, prop_oneof![50..1000_usize, 1000..300_000_usize])
        .prop_map(|(opener, a, b, capacity)| Plan { opener, lengths: [a, b], capacity })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stream_gets_the_others_bytes_and_its_end(plans in proptest::collection::vec(plan(), 1..6), seed in any::<u64>()) {
        run(&plans, seed);
    }

    #[test]
    fn arbitrary_packets_do_no_harm(packets in proptest::collection::vec(packet(), 0..200), seed in any::<u64>()) {
        let mut random = Random(seed | 1);
        let mut side = Side::new(Cids { guest: GUEST, host: [PARENT, 2] });
        let plans = vec![Plan { opener: 0, lengths: [100, 100], capacity: 1000 }; 4];
        side.open(0, &plans[0]);
        for header in packets {
            side.mux.receive(&header, &vec![0; header.len as usize]);
            side.link.clear();
            side.transmit(random.below(4096) + 1);
            side.work(random.below(8), random.below(500));
            if let Some(action) = side.mux.next_action() {
                side.misbehave(action, &plans[0], &mut random);
            }
            prop_assert!(side.mux.connections() <= MAX_CONNECTIONS);
        }
        side.mux.advance(Instant::now() + Duration::from_secs(3600));
    }
}

fn packet() -> impl Strategy<Value = Header> {
    let cid = prop_oneof![4 => Just(GUEST), 1 => any::<u64>()];
    let to = prop_oneof![4 => Just(PARENT), 1 => 0..6_u64];
    let host_port = prop_oneof![0..4_u32, Just(FIRST_EPHEMERAL_PORT)];
    let counters = (prop_oneof![Just(0), Just(262_144), any::<u32>()], prop_oneof![Just(0), any::<u32>()]);
    (cid, to, 0..3_u32, host_port, 0..10_u16, 0..300_000_u32, any::<u32>(), counters, 0..8_u8).prop_map(
        |(src_cid, dst_cid, src_port, dst_port, op, len, flags, (buf_alloc, fwd_cnt), odd)| Header {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len: if op == Op::ReadWrite.number() { len } else { 0 },
            socket_type: if odd == 0 { 2 } else { TYPE_STREAM },
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        },
    )
}
