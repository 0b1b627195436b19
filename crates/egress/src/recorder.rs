//! The bounded queue between those who make connections and whoever writes their records.
//!
//! Nobody waits for the writer, and nothing goes uncounted. Records are written one by one as long as the writer keeps
//! up and no more than [`RATE_PER_S`] come; from then on those that differ in nothing but times and bytes become one,
//! with a count, and when even these are too many, those that have the same protocol and outcome do.

use std::collections::BTreeMap;

use crate::{Name, Protocol, Record, record::Outcome};
use std::net::IpAddr;

/// Records that wait one by one.
const WAITING: usize = 1024;

/// Kinds of record that are told apart beyond.
const KINDS: usize = 1024;

/// Records written in a second, on average.
pub(crate) const RATE_PER_S: u64 = 200;

/// Records written at once after a quiet time.
const BURST: u64 = 400;

const MS_PER_S: u64 = 1000;

/// Records on their way to the writer.
#[derive(Debug)]
pub struct Recorder {
    waiting: std::collections::VecDeque<Record>,
    kinds: BTreeMap<Kind, Record>,
    /// What may be written now, in thousandths of a record.
    allowance: u64,
    refilled_ms: u64,
}

/// What two records have in common that may become one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    protocol: Protocol,
    outcome: Outcome,
    peer: Option<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Peer {
    name: Option<Name>,
    address: Option<IpAddr>,
    port: u16,
    rule: Option<String>,
}

/// What the writer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Write this.
    Write(Record),
    /// Ask again after so many milliseconds.
    Wait(u64),
    /// Ask again when a record was put in.
    Empty,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            waiting: std::collections::VecDeque::new(),
            kinds: BTreeMap::new(),
            allowance: BURST.saturating_mul(MS_PER_S),
            refilled_ms: 0,
        }
    }
}

impl Recorder {
    /// Takes a record. Never waits, and holds a bounded number whatever comes.
    pub fn push(&mut self, record: Record) {
        // Once something is gathered, everything is, so that the order of what was gathered stays behind it.
        if self.kinds.is_empty() && self.waiting.len() < WAITING {
            self.waiting.push_back(record);
            return;
        }
        let kind = Kind::of(&record);
        let is_known = self.kinds.contains_key(&kind);
        let (kind, record) = match is_known || self.kinds.len() < KINDS {
            true => (kind, record),
            false => (kind.without_peer(), without_peer(record)),
        };
        match self.kinds.get_mut(&kind) {
            Some(gathered) => gathered.merge(&record),
            None => drop(self.kinds.insert(kind, record)),
        }
    }

    /// What to do at `now_ms`, milliseconds on any clock that never goes back.
    pub fn poll(&mut self, now_ms: u64) -> Poll {
        self.refill(now_ms);
        if self.waiting.is_empty() && self.kinds.is_empty() {
            return Poll::Empty;
        }
        match self.allowance.checked_sub(MS_PER_S) {
            Some(rest) => {
                self.allowance = rest;
                self.take().map_or(Poll::Empty, Poll::Write)
            }
            None => Poll::Wait(MS_PER_S.saturating_sub(self.allowance).div_ceil(RATE_PER_S).max(1)),
        }
    }

    /// Takes out whatever is left, without regard to the rate: for the end.
    pub fn drain(&mut self) -> impl Iterator<Item = Record> + '_ {
        std::iter::from_fn(|| self.take())
    }

    fn take(&mut self) -> Option<Record> {
        self.waiting.pop_front().or_else(|| self.kinds.pop_first().map(|(_, record)| record))
    }

    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms = self.refilled_ms.max(now_ms);
        let earned = passed.saturating_mul(RATE_PER_S);
        self.allowance = self.allowance.saturating_add(earned).min(BURST.saturating_mul(MS_PER_S));
    }
}

impl Kind {
    fn of(record: &Record) -> Self {
        let peer = Peer {
            name: record.name.clone(),
            address: record.address,
            port: record.port,
            rule: record.rule.clone(),
        };
        Self { protocol: record.protocol, outcome: record.outcome, peer: Some(peer) }
    }

    fn without_peer(self) -> Self {
        Self { peer: None, ..self }
    }
}

fn without_peer(record: Record) -> Record {
    Record { name: None, address: None, port: 0, rule: None, ..record }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Status;

    fn record(name: &str, port: u16) -> Record {
        Record {
            time_ms: 5,
            protocol: Protocol::Tcp,
            name: Some(name.parse().unwrap()),
            address: None,
            port,
            outcome: Outcome::Asked(Status::Connected),
            rule: Some("*:*".into()),
            sent: 1,
            received: 10,
            duration_ms: 3,
            count: 1,
        }
    }

    #[test]
    fn single_records_stay_single_and_in_order() {
        let mut recorder = Recorder::default();
        for port in 1..=10 {
            recorder.push(record("a.example", port));
        }
        for port in 1..=10 {
            assert_eq!(recorder.poll(0), Poll::Write(record("a.example", port)));
        }
        assert_eq!(recorder.poll(0), Poll::Empty);
    }

    #[test]
    fn a_flood_is_gathered_and_nothing_goes_uncounted() {
        let mut recorder = Recorder::default();
        let total = 100_000_u64;
        for i in 0..total {
            let name = format!("h{}.example", i % 5000);
            recorder.push(record(&name, 443));
            assert!(recorder.waiting.len() <= WAITING && recorder.kinds.len() <= KINDS + 1);
        }
        let written: Vec<Record> = recorder.drain().collect();
        assert!(written.len() <= WAITING + KINDS + 1);
        assert_eq!(written.iter().map(|r| r.count).sum::<u64>(), total);
        assert_eq!(written.iter().map(|r| r.received).sum::<u64>(), total * 10);
        assert!(
            written.iter().any(|r| r.name.is_none() && r.count > 1),
            "some are told by protocol and outcome only"
        );
    }

    #[test]
    fn the_rate_is_kept() {
        let mut recorder = Recorder::default();
        for _ in 0..1000 {
            recorder.push(record("a.example", 1));
        }
        let mut written = 0;
        let mut now = 0;
        while now < 1000 {
            match recorder.poll(now) {
                Poll::Write(_) => written += 1,
                Poll::Wait(ms) => now += ms,
                Poll::Empty => break,
            }
        }
        assert!((BURST + RATE_PER_S - 2..=BURST + RATE_PER_S).contains(&written), "{written}");
    }
}
