//! What entries are searched by, in memory: a few bytes of each, looked through from end to end.

use std::collections::HashMap;

use super::Query;
use crate::Entry;

/// Texts by small numbers.
#[derive(Debug, Default)]
struct Names(HashMap<String, u32>);

/// Rows that are compared at a time.
const BLOCK: usize = 1024;

/// Columns of all entries, in their order: agents, rooms, users and kinds by number, and times, which only rise.
#[derive(Debug, Default)]
pub(super) struct Columns {
    names: [Names; 4],
    numbers: [Vec<u32>; 4],
    times: Vec<u64>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = u32::try_from(self.0.len()).expect("a log has fewer entries than that");
        self.0.insert(name.to_owned(), number);
        number
    }
}

impl Columns {
    pub(super) fn push(&mut self, entry: &Entry) {
        let texts = [&entry.agent_id, &entry.room_id, &entry.user_id, &entry.kind];
        for ((names, text), numbers) in self.names.iter_mut().zip(texts).zip(&mut self.numbers) {
            numbers.push(names.number(text));
        }
        self.times.push(entry.timestamp);
    }

    pub(super) fn last_timestamp(&self) -> u64 {
        self.times.last().copied().unwrap_or_default()
    }

    /// How many entries are found, and the numbers of those after the first `skip`, at most `most`.
    pub(super) fn find(&self, query: &Query, skip: u64, most: u64) -> (u64, Vec<u64>) {
        let from = query.start_timestamp.map_or(0, |start| self.times.partition_point(|time| *time < start));
        let to = query
            .end_timestamp
            .map_or(self.times.len(), |end| self.times.partition_point(|time| *time <= end));
        let texts = [&query.agent_id, &query.room_id, &query.user_id, &query.kind];
        let mut wanted = Vec::new();
        for ((names, text), numbers) in self.names.iter().zip(texts).zip(&self.numbers) {
            if !text.is_empty() {
                let Some(number) = names.0.get(text) else { return (0, Vec::new()) };
                wanted.push((numbers.as_slice(), *number));
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if wanted.is_empty() {
            let total = to.saturating_sub(from) as u64;
            let first = (from as u64).saturating_add(skip.min(total));
            return (total, (first..(to as u64).max(first)).take(most).collect());
        }
        let (mut total, mut found) = (0_u64, Vec::new());
        for start in (from..to).step_by(BLOCK) {
            let mut fits = [true; BLOCK];
            let fits = fits.get_mut(..BLOCK.min(to - start)).unwrap_or_default();
            let count = compare(&wanted, start, fits);
            if count > 0 && found.len() < most && total + u64::from(count) > skip {
                let rows = fits.iter().zip(start as u64..).filter_map(|(fits, row)| fits.then_some(row));
                let before = usize::try_from(skip.saturating_sub(total)).unwrap_or(usize::MAX);
                found.extend(rows.skip(before).take(most - found.len()));
            }
            total += u64::from(count);
        }
        (total, found)
    }
}

/// Leaves in `fits` those rows from `start` on whose numbers are all as wanted, and counts them. Without a branch for a row: this
/// is what a query over a million entries takes its time for.
fn compare(wanted: &[(&[u32], u32)], start: usize, fits: &mut [bool]) -> u32 {
    for (numbers, wanted) in wanted {
        for (fits, number) in fits.iter_mut().zip(numbers.get(start..).unwrap_or_default()) {
            *fits &= number == wanted;
        }
    }
    fits.iter().fold(0, |count, fits| count.wrapping_add(u32::from(*fits)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Position, PublicKey};

    fn entry([agent, room, user, kind]: [u8; 4], timestamp: u64) -> Entry {
        Entry {
            after: Position::default(),
            key: PublicKey([2; 33]),
            id: [0; 16],
            agent_id: agent.to_string(),
            room_id: room.to_string(),
            user_id: user.to_string(),
            kind: kind.to_string(),
            content: String::new(),
            timestamp,
        }
    }

    /// A name that some entries have, one that none has, or none that is asked for.
    fn asked() -> impl Strategy<Value = String> {
        prop_oneof![3 => Just(String::new()), 2 => (0_u8..2).prop_map(|name| name.to_string()), 1 => Just("none".to_owned())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn blocks_are_looked_through_as_single_rows_are(
            rows in prop::collection::vec((prop::array::uniform4(0_u8..2), 0_u64..2), 0..3 * BLOCK),
            texts in prop::array::uniform4(asked()),
            times in (prop::option::of(0_u64..3000), prop::option::of(0_u64..3000)),
            skip in 0_u16..2000,
            most in 0_u16..2000,
        ) {
            let mut time = 0;
            let entries: Vec<_> = rows.iter().map(|(names, later)| { time += later; entry(*names, time) }).collect();
            let mut columns = Columns::default();
            entries.iter().for_each(|entry| columns.push(entry));
            let [agent_id, room_id, user_id, kind] = texts;
            let (start_timestamp, end_timestamp) = times;
            let query = Query { agent_id, room_id, user_id, kind, start_timestamp, end_timestamp, ..Query::default() };
            let fits = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
            let expected: Vec<u64> = (0..).zip(&entries).filter(|(_, entry)| {
                fits(&query.agent_id, &entry.agent_id)
                    && fits(&query.room_id, &entry.room_id)
                    && fits(&query.user_id, &entry.user_id)
                    && fits(&query.kind, &entry.kind)
                    && start_timestamp.is_none_or(|start| start <= entry.timestamp)
                    && end_timestamp.is_none_or(|end| entry.timestamp <= end)
            }).map(|(row, _)| row).collect();
            let (total, found) = columns.find(&query, skip.into(), most.into());
            prop_assert_eq!(total, expected.len() as u64);
            let page: Vec<_> = expected.into_iter().skip(skip.into()).take(most.into()).collect();
            prop_assert_eq!(found, page);
        }
    }
}
