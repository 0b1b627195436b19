//! Entries of a TEE log, from storage and from JSON: what is read is written again the same, and no input ends a verifier.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tee_log::{Entry, Page, Row, SignedEntry, Verifier};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode(), bytes);
    }
    let Ok(page) = serde_json::from_slice::<Page>(bytes) else { return };
    let mut verifier = Verifier::default();
    for row in &page.data {
        let Ok(signed) = SignedEntry::try_from(row) else { return };
        assert_eq!(&Row::from(&signed), row);
        if verifier.push(&signed).is_err() {
            return;
        }
    }
});
