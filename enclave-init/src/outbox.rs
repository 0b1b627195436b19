//! The events that the host has not had yet, in bounded memory.
//!
//! A host that reads slowly or not at all must not stop the enclave, so the oldest log lines make room for new events
//! and are counted. What happened to a service and how the enclave ended is kept apart from log lines, and so are the
//! records of connections: none of the three pushes out another. Nothing here knows about connections; [`crate::host`] empties the box.

use std::collections::VecDeque;

use crate::event::{self, Event, Record};

/// Memory for log lines that wait, in bytes. Some 25,000 short lines: a burst at a service's start is not cut.
pub(crate) const LOG_BYTES: usize = 4 * 1024 * 1024;

/// Memory for records of connections that wait, in bytes: some 3,000 of them.
pub(crate) const EGRESS_BYTES: usize = 1024 * 1024;

/// Memory for all other events that wait, in bytes. A service that fails at every start needs hours to fill it.
pub(crate) const STATE_BYTES: usize = 1024 * 1024;

/// Events in order, waiting to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    logs: Lane,
    egress: Lane,
    states: Lane,
    /// The number the next event gets.
    next_seq: u64,
    /// The number the host expects next.
    next_sent: u64,
}

impl Outbox {
    pub(crate) fn new(log_bytes: usize, egress_bytes: usize, state_bytes: usize) -> Self {
        let (logs, egress, states) = (Lane::new(log_bytes), Lane::new(egress_bytes), Lane::new(state_bytes));
        Self { logs, egress, states, next_seq: 1, next_sent: 1 }
    }

    /// Puts an event behind all others.
    pub(crate) fn push(&mut self, at_ms: u64, event: Event) {
        let lane = match event.lane() {
            event::Lane::Logs => &mut self.logs,
            event::Lane::Egress => &mut self.egress,
            event::Lane::States => &mut self.states,
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        lane.push(Entry { seq, at_ms, line: Record { seq, at_ms, event }.to_line() });
    }

    /// Takes the oldest events that fit `max_bytes`, at least one if there is any.
    pub(crate) fn take(&mut self, max_bytes: usize) -> Batch {
        let mut batch = Batch::default();
        while let Some(lane) = self.oldest() {
            let next = lane.entries.front().map_or(0, |entry| entry.line.len());
            if !batch.bytes.is_empty() && batch.bytes.len() + next > max_bytes {
                break;
            }
            let Some(entry) = lane.pop() else { break };
            let missed = entry.seq - self.next_sent;
            if missed > 0 {
                // The number of the last event that is missing: numbers go on rising, and each is accounted for.
                let event = Event::Dropped { count: missed };
                batch.bytes.extend(Record { seq: entry.seq - 1, at_ms: entry.at_ms, event }.to_line());
            }
            self.next_sent = entry.seq + 1;
            batch.bytes.extend(entry.line);
        }
        batch
    }

    /// The lane whose turn it is; nothing when all are empty.
    fn oldest(&mut self) -> Option<&mut Lane> {
        let lanes = [&mut self.logs, &mut self.egress, &mut self.states];
        let waiting = lanes.into_iter().filter_map(|lane| Some((lane.entries.front()?.seq, lane)));
        waiting.min_by_key(|(seq, _)| *seq).map(|(_, lane)| lane)
    }
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    at_ms: u64,
    line: Vec<u8>,
}

/// One kind of event, oldest first, within its share of memory.
#[derive(Debug)]
struct Lane {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
}

/// What an entry costs beside its line.
const ENTRY_BYTES: usize = size_of::<Entry>();

impl Lane {
    fn new(max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_bytes }
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.line.len() + ENTRY_BYTES;
        self.entries.push_back(entry);
        // The newest event stays even if it alone is over the limit; a line is bounded.
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.line.len() + ENTRY_BYTES;
        Some(entry)
    }
}

/// Whole lines on their way to the host, kept until all of them have left.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sent: usize,
}

impl Batch {
    /// What is still to be written.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Says that so many of the pending bytes were written.
    pub(crate) fn advance(&mut self, written: usize) {
        self.sent += written;
        assert!(self.sent <= self.bytes.len(), "no more is written than was pending");
    }

    /// Begins again, for another connection. The host knows by their numbers the events it has already.
    pub(crate) fn restart(&mut self) {
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Level, Line, LogStream};
    use proptest::prelude::*;

    fn log(text: &str) -> Event {
        let line = Line { bytes: text.into(), continues: false };
        Event::Log { service: "a".into(), stream: LogStream::Stdout, line }
    }

    fn state(text: &str) -> Event {
        Event::Message { level: Level::Info, text: text.into() }
    }

    fn connection() -> Event {
        let json = r#"{"time_ms":1,"protocol":"tcp","port":1,"outcome":"denied","sent":0,"received":0,"duration_ms":0,"count":1}"#;
        Event::Egress(Box::new(egress::Record::from_json(json).unwrap()))
    }

    fn records(outbox: &mut Outbox, max_bytes: usize) -> Vec<Record> {
        let batch = outbox.take(max_bytes);
        batch
            .pending()
            .split_inclusive(|b| *b == b'\n')
            .map(|line| Record::from_line(line).unwrap())
            .collect()
    }

    #[test]
    fn log_lines_never_push_out_states_and_the_gap_is_counted_where_it_is() {
        let mut outbox = Outbox::new(ENTRY_BYTES * 2 + 200, 0, 10_000);
        outbox.push(0, state("first"));
        for i in 0..10 {
            outbox.push(1, log(&i.to_string()));
        }
        outbox.push(2, state("last"));
        let got = records(&mut outbox, usize::MAX);
        let kept_logs = got.iter().filter(|r| matches!(r.event, Event::Log { .. })).count();
        assert_eq!(got[0].event, state("first"));
        assert_eq!(got[1].event, Event::Dropped { count: 10 - u64::try_from(kept_logs).unwrap() });
        assert_eq!(got[got.len() - 2].event, log("9"));
        assert_eq!(got[got.len() - 1].event, state("last"));
        assert!((1..10).contains(&kept_logs));
    }

    #[test]
    fn a_batch_is_sent_again_from_its_start() {
        let mut batch = Batch { bytes: b"one\ntwo\n".to_vec(), sent: 0 };
        batch.advance(6);
        assert_eq!(batch.pending(), b"o\n");
        batch.restart();
        assert_eq!(batch.pending(), b"one\ntwo\n");
    }

    #[test]
    fn a_batch_holds_at_least_one_event_and_otherwise_keeps_its_limit() {
        let mut outbox = Outbox::new(100_000, 0, 100_000);
        for _ in 0..3 {
            outbox.push(0, log(&"x".repeat(100)));
        }
        assert_eq!(records(&mut outbox, 1).len(), 1);
        assert_eq!(records(&mut outbox, 10_000).len(), 2);
        assert_eq!(records(&mut outbox, 10_000).len(), 0);
    }

    proptest! {
        /// Numbers rise, every event is either delivered or counted, and memory stays in its bounds.
        #[test]
        fn accounts_for_every_event(
            steps in prop::collection::vec((0_u8..6, 0_usize..300), 0..200),
            log_bytes in 0_usize..2000,
            egress_bytes in 0_usize..2000,
            state_bytes in 0_usize..2000,
        ) {
            let mut outbox = Outbox::new(log_bytes, egress_bytes, state_bytes);
            let (mut pushed, mut accounted, mut last_seq) = (0_u64, 0_u64, 0_u64);
            let mut check = |got: Vec<Record>| {
                for record in got {
                    assert!(record.seq > last_seq);
                    last_seq = record.seq;
                    accounted += if let Event::Dropped { count } = record.event { count } else { 1 };
                    assert_eq!(accounted, record.seq);
                }
            };
            for (step, size) in steps {
                match step {
                    0 => check(records(&mut outbox, size)),
                    1 => { outbox.push(0, state(&"s".repeat(size))); pushed += 1; }
                    2 | 3 => { outbox.push(0, connection()); pushed += 1; }
                    _ => { outbox.push(0, log(&"l".repeat(size))); pushed += 1; }
                }
                for lane in [&outbox.logs, &outbox.egress, &outbox.states] {
                    prop_assert!(lane.bytes <= lane.max_bytes || lane.entries.len() == 1);
                    prop_assert_eq!(lane.bytes, lane.entries.iter().map(|e| e.line.len() + ENTRY_BYTES).sum::<usize>());
                }
            }
            check(records(&mut outbox, usize::MAX));
            prop_assert_eq!(accounted, pushed);
        }
    }
}
