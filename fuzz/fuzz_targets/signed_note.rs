//! Signed notes: what is read is written again as it was, and signatures are checked without panic. And keys as texts.

#![no_main]

use ledger::{Note, NoteKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(key) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<NoteKey>().ok()) {
        assert_eq!(key.verifier_text().parse(), Ok(key));
    }
    let Ok(note) = Note::decode(data) else { return };
    assert_eq!(note.encode().as_bytes(), data);
    // The base point, which is a key as good as any.
    let mut point = [0x66; 32];
    point[0] = 0x58;
    let name = note.text().lines().next().unwrap_or_default();
    if let Ok(key) = NoteKey::new(name, &point) {
        let _ = (note.verify(&key), note.verify_witness(&key));
    }
});
