//! Single exchanges, packet by packet as a Linux guest would send them, then two cores against each other.

mod pair;

use std::time::Duration;

use super::*;
use crate::connection::{BUSY_RETRY, BUSY_TIMEOUT, GREETING_TIMEOUT, LINGER_TIMEOUT, REQUEST_TIMEOUT};
use crate::credit::RECEIVE_BUFFER_BYTES;
use crate::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

const GUEST: u64 = 4;
const PARENT: u64 = 3;
const GUEST_PORT: u32 = 1025;
const HOST_PORT: u32 = 9000;

const WRITABLE: Readiness = Readiness { readable: false, writable: true, hung_up: false };
const READABLE: Readiness = Readiness { readable: true, writable: false, hung_up: false };
const HUNG_UP: Readiness = Readiness { readable: true, writable: true, hung_up: true };

fn mux() -> Mux {
    let mut mux = Mux::new(Cids { guest: GUEST, host: [PARENT, 2] }, Instant::now());
    mux.set_online(true);
    mux
}

fn from_guest(op: Op) -> Header {
    Header {
        src_cid: GUEST,
        dst_cid: PARENT,
        src_port: GUEST_PORT,
        dst_port: HOST_PORT,
        socket_type: TYPE_STREAM,
        op: op.number(),
        buf_alloc: 1000,
        ..Header::default()
    }
}

fn data(payload: &[u8]) -> Header {
    Header { len: u32::try_from(payload.len()).unwrap(), ..from_guest(Op::ReadWrite) }
}

fn shutdown(flags: u32) -> Header {
    Header { flags, ..from_guest(Op::Shutdown) }
}

impl Mux {
    /// The next packet for the guest, which is to be one without payload.
    fn sent(&mut self) -> Option<(Op, Header)> {
        match self.transmit()? {
            Transmit::Control(header) => Some((Op::from_number(header.op).unwrap(), header)),
            Transmit::Data(..) => panic!("data was not expected here"),
        }
    }

    fn sent_op(&mut self) -> Option<Op> {
        self.sent().map(|(op, _)| op)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.next_action()).collect()
    }

    fn written(&mut self, id: Id) -> Vec<u8> {
        let (first, second) = self.outbox(id);
        let bytes = [first, second].concat();
        self.wrote(id, WriteOutcome::Wrote(bytes.len()));
        bytes
    }
}

/// A connection that the guest opened and the host accepted.
fn opened_by_guest() -> (Mux, Id) {
    let mut mux = mux();
    mux.receive(&from_guest(Op::Request), &[]);
    let Some(Action::Dial(id, HOST_PORT)) = mux.next_action() else { panic!("no dial") };
    mux.dialled(id, DialOutcome::Connected);
    mux.ready(id, WRITABLE);
    assert_eq!(mux.sent_op(), Some(Op::Response));
    (mux, id)
}

#[test]
fn the_guest_reaches_a_listener_under_either_name_of_the_host() {
    for cid in [PARENT, 2] {
        let mut mux = mux();
        mux.receive(&Header { dst_cid: cid, ..from_guest(Op::Request) }, &[]);
        let Some(Action::Dial(id, port)) = mux.next_action() else { panic!("no dial for CID {cid}") };
        assert_eq!(port, HOST_PORT);
        mux.dialled(id, DialOutcome::Connected);
        let (op, header) = mux.sent().unwrap();
        assert_eq!(op, Op::Response);
        assert_eq!(
            (header.src_cid, header.src_port),
            (cid, HOST_PORT),
            "the guest must recognise whom it called"
        );
        assert_eq!((header.dst_cid, header.dst_port), (GUEST, GUEST_PORT));
        assert_eq!((header.buf_alloc, header.fwd_cnt), (RECEIVE_BUFFER_BYTES, 0));
    }
}

#[test]
fn a_port_where_nobody_listens_is_refused_at_once() {
    let mut mux = mux();
    mux.receive(&from_guest(Op::Request), &[]);
    let Some(Action::Dial(id, _)) = mux.next_action() else { panic!("no dial") };
    mux.dialled(id, DialOutcome::Refused);
    assert_eq!(mux.sent_op(), Some(Op::Reset));
    assert_eq!(mux.connections(), 0);
}

#[test]
fn a_listener_with_a_full_queue_is_tried_until_it_has_room() {
    let mut mux = mux();
    let start = Instant::now();
    mux.advance(start);
    mux.receive(&from_guest(Op::Request), &[]);
    for attempt in 0..3 {
        let Some(Action::Dial(id, _)) = mux.next_action() else { panic!("no dial {attempt}") };
        mux.dialled(id, DialOutcome::Busy);
        assert_eq!(mux.sent_op(), None);
        assert_eq!(mux.actions(), [], "not before its time");
        mux.advance(start + BUSY_RETRY * (attempt + 1));
    }
    let Some(Action::Dial(id, _)) = mux.next_action() else { panic!("no last dial") };
    mux.dialled(id, DialOutcome::Connected);
    assert_eq!(mux.sent_op(), Some(Op::Response));
}

#[test]
fn a_listener_that_never_has_room_is_given_up() {
    let mut mux = mux();
    let start = Instant::now();
    mux.advance(start);
    mux.receive(&from_guest(Op::Request), &[]);
    let mut now = start;
    let mut dials = 0;
    while let Some(Action::Dial(id, _)) = mux.next_action() {
        dials += 1;
        mux.dialled(id, DialOutcome::Busy);
        now += BUSY_RETRY;
        mux.advance(now);
    }
    assert_eq!(mux.sent_op(), Some(Op::Reset));
    assert!(now >= start + BUSY_TIMEOUT && dials > 100, "{dials} dials");
    assert_eq!(mux.connections(), 0);
}

#[test]
fn what_is_not_for_us_is_refused_and_resets_are_not_answered() {
    let refused = [
        Header { socket_type: 2, ..from_guest(Op::Request) },
        Header { dst_cid: 5, ..from_guest(Op::Request) },
        Header { op: 99, ..from_guest(Op::Request) },
        Header { op: 0, ..from_guest(Op::Request) },
        from_guest(Op::ReadWrite),
        from_guest(Op::Shutdown),
        from_guest(Op::Response),
        from_guest(Op::CreditUpdate),
        from_guest(Op::CreditRequest),
    ];
    for header in refused {
        let mut mux = mux();
        mux.receive(&header, &[]);
        let (op, answer) = mux.sent().unwrap_or_else(|| panic!("no answer to {header:?}"));
        assert_eq!(op, Op::Reset);
        assert_eq!((answer.src_cid, answer.src_port), (header.dst_cid, header.dst_port));
        assert_eq!((answer.dst_cid, answer.dst_port), (GUEST, GUEST_PORT));
        assert_eq!(answer.socket_type, header.socket_type);
        assert_eq!(mux.actions(), []);
    }
    for header in [from_guest(Op::Reset), Header { src_cid: 77, ..from_guest(Op::Request) }] {
        let mut mux = mux();
        mux.receive(&header, &[]);
        assert_eq!(mux.sent_op(), None, "{header:?}");
    }
}

#[test]
fn a_flood_of_stray_packets_is_bounded() {
    let mut mux = mux();
    for _ in 0..MAX_STRAY_RESETS * 2 {
        mux.receive(&from_guest(Op::ReadWrite), &[]);
    }
    assert_eq!(std::iter::from_fn(|| mux.sent_op()).count(), MAX_STRAY_RESETS);
}

#[test]
fn a_flood_of_requests_is_bounded_and_the_surplus_refused() {
    let mut mux = mux();
    for port in 0..u32::try_from(MAX_CONNECTIONS).unwrap() + 10 {
        mux.receive(&Header { src_port: port, ..from_guest(Op::Request) }, &[]);
    }
    assert_eq!(mux.connections(), MAX_CONNECTIONS);
    assert_eq!(std::iter::from_fn(|| mux.sent_op()).count(), 10);
    assert!(mux.accepted().is_none());
}

#[test]
fn a_host_client_gets_ok_once_the_guest_has_accepted() {
    let mut mux = mux();
    let id = mux.accepted().unwrap();
    mux.ready(id, WRITABLE);
    assert_eq!(mux.greet(id, b"CONNECT 50"), Greeted::Wait);
    assert_eq!(mux.greet(id, b"CONNECT 5005\nearly"), Greeted::Consume(13));
    mux.ready(id, READABLE);
    let (op, request) = mux.sent().unwrap();
    assert_eq!((op, request.src_cid, request.dst_port), (Op::Request, PARENT, 5005));
    assert_eq!(mux.sent_op(), None, "no data before the guest has accepted");
    assert_eq!(mux.actions(), []);
    let response = Header { src_port: 5005, dst_port: request.src_port, ..from_guest(Op::Response) };
    mux.receive(&response, &[]);
    assert_eq!(mux.actions(), [Action::Write(id)]);
    assert_eq!(mux.written(id), b"OK 5005\n");
    assert_eq!(mux.transmit(), Some(Transmit::Data(id, 1000)));
    let header = mux.read(id, ReadOutcome::Read(5)).unwrap();
    assert_eq!((header.len, header.fwd_cnt), (5, 0), "our own answer is not counted as the guest's data");
}

#[test]
fn a_host_client_is_closed_without_ok_when_refused() {
    let mut mux = mux();
    let id = mux.accepted().unwrap();
    mux.ready(id, WRITABLE);
    mux.greet(id, b"CONNECT 5005\n");
    let (_, request) = mux.sent().unwrap();
    mux.receive(&Header { src_port: 5005, dst_port: request.src_port, ..from_guest(Op::Reset) }, &[]);
    assert_eq!(mux.actions(), [Action::Close(id)]);
    assert_eq!(mux.connections(), 0);
}

/// With a queue of 128 in the guest, 78 of 200 clients that came at once were turned away.
#[test]
fn a_guest_listener_with_a_full_queue_is_asked_again_but_not_for_ever() {
    let mut mux = mux();
    let start = Instant::now();
    mux.advance(start);
    let answer = |mux: &mut Mux, op: Op| {
        let (sent, request) = mux.sent().unwrap();
        assert_eq!(sent, Op::Request);
        mux.receive(&Header { src_port: 5005, dst_port: request.src_port, ..from_guest(op) }, &[]);
    };
    let first = mux.accepted().unwrap();
    mux.greet(first, b"CONNECT 5005\n");
    answer(&mut mux, Op::Response);
    let second = mux.accepted().unwrap();
    mux.greet(second, b"CONNECT 5005\n");
    answer(&mut mux, Op::Reset);
    assert_eq!((mux.actions(), mux.sent_op()), (vec![], None));
    let mut now = start;
    while now < start + BUSY_TIMEOUT {
        now += BUSY_RETRY;
        mux.advance(now);
        answer(&mut mux, Op::Reset);
    }
    assert_eq!(mux.actions(), [Action::Close(second)]);
    assert_eq!(mux.connections(), 1);
}

#[test]
fn a_host_client_is_closed_when_no_driver_serves_the_queues() {
    let mut mux = mux();
    mux.set_online(false);
    let id = mux.accepted().unwrap();
    mux.greet(id, b"CONNECT 5005\n");
    assert_eq!(mux.actions(), [Action::Close(id)]);
    assert_eq!(mux.sent_op(), None);
}

#[test]
fn a_host_client_that_talks_nonsense_or_leaves_or_stays_silent_is_closed() {
    for seen in [&b"HELO\n"[..], b""] {
        let mut mux = mux();
        let id = mux.accepted().unwrap();
        mux.greet(id, seen);
        assert_eq!(mux.actions(), [Action::Close(id)]);
    }
    let mut mux = mux();
    let start = Instant::now();
    mux.advance(start);
    let id = mux.accepted().unwrap();
    mux.greet(id, b"CONN");
    assert_eq!(mux.next_deadline(), Some(start + GREETING_TIMEOUT));
    mux.advance(start + GREETING_TIMEOUT);
    assert_eq!(mux.actions(), [Action::Close(id)]);
    assert_eq!((mux.connections(), mux.next_deadline()), (0, None));
}

#[test]
fn a_guest_that_never_answers_a_request_is_not_waited_for() {
    let mut mux = mux();
    let start = Instant::now();
    mux.advance(start);
    let id = mux.accepted().unwrap();
    mux.greet(id, b"CONNECT 5005\n");
    assert_eq!(mux.sent_op(), Some(Op::Request));
    mux.advance(start + REQUEST_TIMEOUT);
    assert_eq!(mux.sent_op(), Some(Op::Reset), "the guest might yet accept");
    assert_eq!(mux.actions(), [Action::Close(id)]);
    assert_eq!(mux.connections(), 0);
}

#[test]
fn data_beyond_the_announced_buffer_resets_the_connection() {
    let (mut mux, id) = opened_by_guest();
    let payload = vec![7; RECEIVE_BUFFER_BYTES as usize];
    mux.receive(&data(&payload), &payload);
    assert_eq!(mux.sent_op(), None);
    mux.receive(&data(b"x"), b"x");
    assert_eq!(mux.sent_op(), Some(Op::Reset));
    assert_eq!(mux.actions(), [Action::Close(id)]);
}

#[test]
fn a_packet_with_an_impossible_length_resets_only_its_connection() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&Header { src_port: 2000, ..from_guest(Op::Request) }, &[]);
    mux.receive_malformed(&Header { len: u32::MAX, ..from_guest(Op::ReadWrite) });
    assert_eq!(mux.sent_op(), Some(Op::Reset));
    assert_eq!(mux.connections(), 1);
    assert!(mux.actions().contains(&Action::Close(id)));
    mux.receive_malformed(&Header { src_port: 3000, ..from_guest(Op::ReadWrite) });
    assert_eq!(mux.sent_op(), Some(Op::Reset));
}

#[test]
fn the_guest_hears_of_room_when_the_host_has_taken_a_good_part() {
    let (mut mux, id) = opened_by_guest();
    let payload = vec![7; 60_000];
    mux.receive(&data(&payload), &payload);
    mux.written(id);
    assert_eq!(mux.sent_op(), None, "not worth a packet yet");
    mux.receive(&data(&payload), &payload);
    mux.written(id);
    let (op, header) = mux.sent().unwrap();
    assert_eq!((op, header.fwd_cnt), (Op::CreditUpdate, 120_000));
    assert_eq!(mux.sent_op(), None);
    mux.receive(&from_guest(Op::CreditRequest), &[]);
    assert_eq!(mux.sent_op(), Some(Op::CreditUpdate), "asked, it answers");
}

#[test]
fn without_credit_nothing_is_read_and_the_guest_is_asked_once() {
    let (mut mux, id) = opened_by_guest();
    mux.ready(id, READABLE);
    assert_eq!(mux.transmit(), Some(Transmit::Data(id, 1000)));
    mux.read(id, ReadOutcome::Read(1000));
    assert_eq!(mux.sent_op(), Some(Op::CreditRequest));
    assert_eq!(mux.sent_op(), None);
    mux.receive(&from_guest(Op::CreditUpdate), &[]);
    assert_eq!(mux.sent_op(), None);
    mux.receive(&Header { fwd_cnt: 400, ..from_guest(Op::CreditUpdate) }, &[]);
    assert_eq!(mux.transmit(), Some(Transmit::Data(id, 400)));
}

#[test]
fn the_end_of_the_hosts_stream_reaches_the_guest_and_the_guest_can_still_answer() {
    let (mut mux, id) = opened_by_guest();
    mux.ready(id, READABLE);
    assert_eq!(mux.transmit(), Some(Transmit::Data(id, 1000)));
    assert_eq!(mux.read(id, ReadOutcome::EndOfStream), None);
    let (op, header) = mux.sent().unwrap();
    assert_eq!((op, header.flags), (Op::Shutdown, SHUTDOWN_SEND));
    mux.receive(&data(b"answer"), b"answer");
    assert_eq!(mux.actions(), [Action::Write(id)]);
    assert_eq!(mux.written(id), b"answer");
    mux.receive(&shutdown(SHUTDOWN_BOTH), &[]);
    assert_eq!(mux.actions(), [Action::ShutdownWrite(id), Action::Close(id)]);
    assert_eq!(mux.sent_op(), Some(Op::Reset), "the receipt for the end");
    assert_eq!(mux.connections(), 0);
}

#[test]
fn the_end_of_the_guests_data_reaches_the_host_after_the_data() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&data(b"last words"), b"last words");
    mux.receive(&shutdown(SHUTDOWN_SEND), &[]);
    assert_eq!(mux.actions(), [Action::Write(id)]);
    mux.wrote(id, WriteOutcome::Wrote(4));
    assert_eq!(mux.actions(), [Action::Write(id)]);
    assert_eq!(mux.written(id), b" words");
    assert_eq!(mux.actions(), [Action::ShutdownWrite(id)]);
    mux.ready(id, READABLE);
    assert_eq!(mux.transmit(), Some(Transmit::Data(id, 1000)));
    assert!(mux.read(id, ReadOutcome::Read(10)).is_some(), "the other direction goes on");
    mux.transmit();
    mux.read(id, ReadOutcome::EndOfStream);
    let (op, header) = mux.sent().unwrap();
    assert_eq!((op, header.flags), (Op::Shutdown, SHUTDOWN_BOTH));
    assert_eq!(mux.actions(), [Action::Close(id)]);
    mux.receive(&from_guest(Op::Reset), &[]);
    assert_eq!((mux.connections(), mux.sent_op()), (0, None));
}

#[test]
fn a_guest_that_closes_has_all_its_data_delivered_before_the_receipt() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&data(b"slowly"), b"slowly");
    mux.receive(&shutdown(SHUTDOWN_BOTH), &[]);
    assert_eq!(mux.actions(), [Action::Write(id)]);
    mux.wrote(id, WriteOutcome::WouldBlock);
    assert_eq!(mux.sent_op(), None);
    mux.ready(id, WRITABLE);
    assert_eq!(mux.actions(), [Action::Write(id)]);
    assert_eq!(mux.written(id), b"slowly");
    assert_eq!(mux.actions(), [Action::ShutdownWrite(id), Action::Close(id)]);
    assert_eq!(mux.sent_op(), Some(Op::Reset));
}

#[test]
fn data_sent_before_a_close_survives_the_guests_impatience_and_its_port_is_free() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&data(b"slowly"), b"slowly");
    mux.receive(&shutdown(SHUTDOWN_BOTH), &[]);
    mux.actions();
    mux.wrote(id, WriteOutcome::WouldBlock);
    mux.receive(&from_guest(Op::Reset), &[]);
    mux.receive(&from_guest(Op::Request), &[]);
    let Some(Action::Dial(second, HOST_PORT)) = mux.next_action() else { panic!("no dial") };
    assert_ne!(second, id);
    mux.ready(id, WRITABLE);
    assert_eq!(mux.actions(), [Action::Write(id)]);
    assert_eq!(mux.written(id), b"slowly");
    assert_eq!(mux.actions(), [Action::Close(id)]);
    assert_eq!(mux.connections(), 1);
}

#[test]
fn a_reset_by_the_guest_closes_the_stream_at_once() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&data(b"lost"), b"lost");
    mux.receive(&from_guest(Op::Reset), &[]);
    assert_eq!(mux.actions(), [Action::Close(id)]);
    assert_eq!((mux.connections(), mux.sent_op()), (0, None));
}

#[test]
fn a_guest_that_will_not_receive_has_the_hosts_writer_told() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&shutdown(SHUTDOWN_RECEIVE), &[]);
    assert_eq!(mux.actions(), [Action::ShutdownRead(id)]);
    mux.ready(id, READABLE);
    mux.receive(&data(b"still sending"), b"still sending");
    assert_eq!(mux.written(id), b"still sending");
}

#[test]
fn a_host_that_hangs_up_has_the_guest_told_and_its_last_data_delivered() {
    let (mut mux, id) = opened_by_guest();
    mux.ready(id, HUNG_UP);
    let (op, header) = mux.sent().unwrap();
    assert_eq!((op, header.flags), (Op::Shutdown, SHUTDOWN_RECEIVE));
    mux.receive(&data(b"in vain"), b"in vain");
    assert_eq!(mux.actions(), []);
    assert_eq!(mux.transmit(), Some(Transmit::Data(id, 1000)));
    assert!(mux.read(id, ReadOutcome::Read(3)).is_some());
    mux.transmit();
    mux.read(id, ReadOutcome::EndOfStream);
    let (op, header) = mux.sent().unwrap();
    assert_eq!((op, header.flags), (Op::Shutdown, SHUTDOWN_BOTH));
    assert_eq!(mux.actions(), [Action::Close(id)]);
}

#[test]
fn a_guest_that_does_not_confirm_the_end_is_reset() {
    let (mut mux, id) = opened_by_guest();
    let start = Instant::now();
    mux.advance(start);
    mux.ready(id, HUNG_UP);
    mux.sent();
    mux.transmit();
    mux.read(id, ReadOutcome::EndOfStream);
    mux.sent();
    assert_eq!(mux.next_deadline(), Some(start + LINGER_TIMEOUT));
    mux.advance(start + LINGER_TIMEOUT - Duration::from_millis(1));
    assert_eq!(mux.sent_op(), None);
    mux.advance(start + LINGER_TIMEOUT);
    assert_eq!(mux.sent_op(), Some(Op::Reset));
    assert_eq!((mux.connections(), mux.next_deadline()), (0, None));
}

#[test]
fn a_stream_that_fails_resets_the_connection() {
    let (mut mux, id) = opened_by_guest();
    mux.ready(id, READABLE);
    mux.transmit();
    mux.read(id, ReadOutcome::Failed);
    assert_eq!(mux.sent_op(), Some(Op::Reset));
    assert_eq!(mux.actions(), [Action::Close(id)]);
}

#[test]
fn connections_take_turns() {
    let mut mux = mux();
    let mut ids = Vec::new();
    for port in 0..3 {
        mux.receive(&Header { src_port: port, buf_alloc: 100_000, ..from_guest(Op::Request) }, &[]);
        let Some(Action::Dial(id, _)) = mux.next_action() else { panic!("no dial") };
        mux.dialled(id, DialOutcome::Connected);
        assert_eq!(mux.sent_op(), Some(Op::Response));
        ids.push(id);
    }
    for id in &ids {
        mux.ready(*id, READABLE);
    }
    let mut order = Vec::new();
    for _ in 0..9 {
        let Some(Transmit::Data(id, _)) = mux.transmit() else { panic!("no data") };
        mux.read(id, ReadOutcome::Read(10));
        order.push(id);
    }
    assert_eq!(order, ids.repeat(3));
}

#[test]
fn a_second_request_on_a_connection_resets_it_and_a_third_starts_afresh() {
    let (mut mux, id) = opened_by_guest();
    mux.receive(&from_guest(Op::Request), &[]);
    assert_eq!(mux.actions(), [Action::Close(id)]);
    mux.receive(&from_guest(Op::Request), &[]);
    let Some(Action::Dial(second, _)) = mux.next_action() else { panic!("no dial") };
    mux.dialled(second, DialOutcome::Connected);
    assert_eq!(
        mux.sent_op(),
        Some(Op::Response),
        "the reset owed to the old connection must not hit the new one"
    );
}

#[test]
fn everything_ends_with_the_driver() {
    let (mut mux, id) = opened_by_guest();
    let client = mux.accepted().unwrap();
    mux.set_online(false);
    let closes = mux.actions();
    assert!(closes.contains(&Action::Close(id)) && closes.contains(&Action::Close(client)));
    assert_eq!((mux.connections(), mux.sent_op(), mux.next_deadline()), (0, None, None));
}
