//! What the ledger's log holds and commits to: what decodes has exactly one encoding, the one it came from.

#![no_main]

use ledger::{Baseline, Entry, Gap, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = Entry::decode(data) {
        assert_eq!(entry.encode(), data);
    }
    if let Ok(record) = Record::decode(data) {
        assert_eq!(record.encode(), data);
    }
    if let Ok(gap) = Gap::decode(data) {
        assert_eq!(gap.encode(), data);
    }
    if let Ok(baseline) = Baseline::decode(data) {
        assert_eq!(baseline.encode(), data);
    }
});
