#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use proptest::{collection::vec, option::of, prelude::*};

use super::*;

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        any::<(u8, Option<u8>, bool)>().prop_map(|(status, signal, timed_out)| Ending::Exit(Exit {
            status,
            signal,
            timed_out
        })),
        any::<u16>().prop_map(Ending::Refused),
        Just(Ending::Lost),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let open = ("[a-z]{1,20}", "[ -~]{1,80}", vec(any::<u8>(), 0..200))
        .prop_map(|(operator, key, request)| Event::Open { operator, key, request });
    let close = (any::<(u64, u64, u64)>(), ending(), of(any::<[u8; 32]>())).prop_map(
        |((session, files, bytes), ending, digest)| Event::Close { session, ending, files, bytes, digest },
    );
    (any::<(u64, u64)>(), prop_oneof![open, close, Just(Event::Restart)])
        .prop_map(|((number, time_ms), event)| Entry { number, time_ms, event })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(entry in entry()) {
        prop_assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
    }

    #[test]
    fn what_is_decoded_has_one_encoding(bytes: Vec<u8>) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_changes_the_head(entry in entry(), at: prop::sample::Index, bit in 0_u8..8) {
        let bytes = entry.encode();
        let mut changed = bytes.clone();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        prop_assert_ne!(Head::empty().after(&bytes), Head::empty().after(&changed));
        prop_assert_ne!(pcr17(&bytes), pcr17(&changed));
    }
}

#[test]
fn the_longest_request_fits_an_entry() {
    let event =
        Event::Open { operator: "o".repeat(63), key: "k".repeat(200), request: vec![0; MAX_REQUEST_BYTES] };
    let bytes = Entry { number: u64::MAX, time_ms: u64::MAX, event }.encode();
    assert!(bytes.len() <= MAX_ENTRY_BYTES);
    Entry::decode(&bytes).unwrap();
}
