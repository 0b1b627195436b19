//! When to look at which connection again.
//!
//! Entries are never moved or taken out: a connection that has outlived its entry enters a new one when the old comes
//! up. So a byte that moves an idle deadline costs nothing here. Entries of connections that are gone are swept out when
//! they are the greater part.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::slots::Token;

/// Below this many entries sweeping is not worth it.
const SWEEP_FROM: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Token)>>,
}

impl Timers {
    pub(crate) fn enter(&mut self, when: Instant, token: Token) {
        self.heap.push(Reverse((when, token)));
    }

    /// The earliest entry's time.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }

    /// Takes out one entry whose time has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, Token)> {
        let Reverse((when, _)) = self.heap.peek()?;
        if *when > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Drops the entries of what does not live, if there are many for `live` connections.
    pub(crate) fn sweep(&mut self, live: usize, lives: impl Fn(Token) -> bool) {
        if self.heap.len() > 2 * live + SWEEP_FROM {
            self.heap.retain(|Reverse((_, token))| lives(*token));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::slots::Slots;

    #[test]
    fn entries_come_up_in_order_and_those_of_the_gone_are_swept() {
        let mut slots = Slots::new();
        let tokens: Vec<_> = (0..200).map(|_| slots.reserve().unwrap()).collect();
        tokens.iter().for_each(|token| slots.fill(*token, ()));
        let start = Instant::now();
        let mut timers = Timers::default();
        for (token, ms) in tokens.iter().zip((0..200).rev()) {
            timers.enter(start + Duration::from_millis(ms), *token);
        }
        for token in &tokens[10..] {
            slots.remove(*token);
        }
        timers.sweep(slots.len(), |token| slots.contains(token));
        assert_eq!(timers.pop(start), None);
        let mut left = Vec::new();
        while let Some((_, token)) = timers.pop(start + Duration::from_secs(1)) {
            left.push(token);
        }
        assert_eq!(left, tokens[..10].iter().rev().copied().collect::<Vec<_>>());
    }
}
