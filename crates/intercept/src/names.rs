//! Addresses lent to names, so that a name is known again when somebody connects to its address.
//!
//! A name keeps its address as long as anybody could still have it. Names that the policy spells out get theirs first and
//! in the policy's order, so they are the same after a restart; a program that kept an address loses nothing.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::plan::{Family, MAX_NAMES, name_number};

/// How long after its last use an address is not given to another name. Programs keep addresses well beyond the time that
/// the answer permitted.
pub const KEPT: Duration = Duration::from_secs(3600);

/// All names with an address.
#[derive(Debug)]
pub struct Names {
    limit: u32,
    numbers: HashMap<String, u32>,
    lent: Vec<Lent>,
    /// Numbers that may be given to others, the longest unused first. May be out of date: `lent` says.
    queue: VecDeque<u32>,
}

#[derive(Debug)]
struct Lent {
    name: String,
    /// `None` for a name that keeps its address for good.
    used: Option<Instant>,
}

/// No address is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every address for names is in use")]
pub struct Full;

impl Names {
    /// With these names, which keep their addresses for good. Those beyond [`MAX_NAMES`] get none.
    pub fn new(fixed: impl IntoIterator<Item = String>) -> Self {
        let mut names =
            Self { limit: MAX_NAMES, numbers: HashMap::new(), lent: Vec::new(), queue: VecDeque::new() };
        for name in fixed {
            // A policy of that many names is cut; each is still allowed, and gets an address when it is asked for.
            let _ = names.number(&name, None);
        }
        names
    }

    /// The addresses of `name`, IPv4 and IPv6. The caller has brought it to its one spelling.
    ///
    /// # Errors
    /// [`Full`] when all are in use.
    pub fn lend(&mut self, now: Instant, name: &str) -> Result<(IpAddr, IpAddr), Full> {
        let number = self.number(name, Some(now))?;
        self.touch(now, number);
        Ok((Family::V4.name(number), Family::V6.name(number)))
    }

    /// The name that `address` is lent to, which counts as a use.
    pub fn name_of(&mut self, now: Instant, address: IpAddr) -> Option<&str> {
        let number = name_number(address)?;
        self.touch(now, number);
        self.lent.get(usize::try_from(number).ok()?).map(|lent| lent.name.as_str())
    }

    fn touch(&mut self, now: Instant, number: u32) {
        let lent = usize::try_from(number).ok().and_then(|index| self.lent.get_mut(index));
        if let Some(Lent { used: Some(used), .. }) = lent {
            *used = (*used).max(now);
        }
    }

    fn number(&mut self, name: &str, now: Option<Instant>) -> Result<u32, Full> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let lent = Lent { name: name.to_owned(), used: now };
        let fresh = u32::try_from(self.lent.len()).ok().filter(|number| *number < self.limit);
        let number = match (fresh, now) {
            (Some(number), _) => {
                self.lent.push(lent);
                number
            }
            (None, Some(now)) => self.reuse(now, lent)?,
            (None, None) => return Err(Full),
        };
        self.numbers.insert(name.to_owned(), number);
        if now.is_some() {
            self.queue.push_back(number);
        }
        Ok(number)
    }

    /// Takes the address that was unused for longest, if that is long enough. Each number is in the queue once, and goes to
    /// its end when it was used meanwhile, so one turn finds what there is.
    fn reuse(&mut self, now: Instant, new: Lent) -> Result<u32, Full> {
        for _ in 0..self.queue.len() {
            let number = self.queue.pop_front().ok_or(Full)?;
            let place =
                usize::try_from(number).ok().and_then(|index| self.lent.get_mut(index)).ok_or(Full)?;
            if place.used.is_some_and(|used| now.saturating_duration_since(used) > KEPT) {
                self.numbers.remove(&place.name);
                *place = new;
                return Ok(number);
            }
            self.queue.push_back(number);
        }
        Err(Full)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "a test may stop")]
mod tests {
    use super::*;

    fn names(limit: u32, fixed: &[&str]) -> Names {
        let mut names = Names::new(fixed.iter().map(|name| (*name).to_owned()));
        names.limit = limit;
        names
    }

    #[test]
    fn a_name_keeps_its_address_and_the_address_leads_back() {
        let now = Instant::now();
        let mut names = names(10, &["api.example.com"]);
        let (v4, v6) = names.lend(now, "a.example.org").unwrap();
        assert_eq!(names.lend(now, "a.example.org").unwrap(), (v4, v6));
        assert_ne!(names.lend(now, "b.example.org").unwrap(), (v4, v6));
        assert_eq!(names.name_of(now, v4), Some("a.example.org"));
        assert_eq!(names.name_of(now, v6), Some("a.example.org"));
        assert_eq!(names.name_of(now, "198.19.0.9".parse().unwrap()), None);
        assert_eq!(names.name_of(now, "192.0.2.1".parse().unwrap()), None);
    }

    /// Addresses that a program kept over a restart of the proxy led nowhere, or to another name, if they were given out in
    /// the order of the questions.
    #[test]
    fn names_of_the_policy_have_the_same_addresses_after_a_restart() {
        let now = Instant::now();
        let mut before = names(10, &["one.example", "two.example"]);
        before.lend(now, "other.example").unwrap();
        let mut after = names(10, &["one.example", "two.example"]);
        assert_eq!(before.lend(now, "two.example").unwrap(), after.lend(now, "two.example").unwrap());
    }

    #[test]
    fn an_address_is_not_given_away_while_somebody_may_have_it() {
        let start = Instant::now();
        let mut names = names(2, &["fixed.example"]);
        let (v4, _) = names.lend(start, "a.example").unwrap();
        assert_eq!(names.lend(start + KEPT, "b.example"), Err(Full));
        // A connection is a use, as a question is.
        names.name_of(start + KEPT / 2, v4);
        assert_eq!(names.lend(start + KEPT * 3 / 2, "b.example"), Err(Full));
        assert_eq!(names.lend(start + KEPT * 2, "b.example").unwrap().0, v4);
        assert_eq!(names.name_of(start, v4), Some("b.example"));
        assert_eq!(names.lend(start + KEPT * 2, "a.example"), Err(Full));
        assert!(names.lend(start + KEPT * 20, "fixed.example").is_ok());
    }
}
