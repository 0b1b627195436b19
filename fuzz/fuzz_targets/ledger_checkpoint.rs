//! Texts of checkpoints and names of tiles: what is read is written again as it was.

#![no_main]

use ledger::{Checkpoint, tile::TileName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let origin = text.lines().next().unwrap_or_default();
    if let Ok(checkpoint) = Checkpoint::from_text(text, origin) {
        assert_eq!(checkpoint.to_text(origin), text);
    }
    if let Ok(name) = text.parse::<TileName>() {
        assert_eq!(name.to_string(), text);
        let _ = (name.exists_in(u64::MAX), name.range());
    }
});
