//! Proofs of the ledger: what decodes has one encoding, and nothing is shown against roots that nobody has the leaves of.

#![no_main]

use ledger::{Anchor, Checkpoint, Hash, Proof};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(proof) = Proof::decode(data) else { return };
    assert_eq!(proof.encode(), data);
    let checkpoint = Checkpoint { size: proof.size, log_root: Hash([7; 32]), map_root: Hash([7; 32]) };
    // The base point, which is a key as good as any.
    let mut key = [0x66; 32];
    key[0] = 0x58;
    let anchor = Anchor::new(checkpoint, &key).expect("a point of the group");
    assert!(anchor.verify_file(b"/app/a", data).is_err());
    assert!(anchor.verify_history(b"/app/a", data).is_err());
    assert!(anchor.verify_stream(&"app/a".parse().expect("a name"), data).is_err());
});
