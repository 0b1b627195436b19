//! What a peer says in a transfer: what decodes has exactly one encoding, the one it came from, and names nothing outside.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline::transfer::{
    check_name, check_relative,
    entry::{Entry, Total, decode_asked, decode_have, encode_asked, encode_have},
};

fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = Entry::decode(data) {
        assert_eq!(entry.encode(), data);
        assert!(entry.encode_for_digest().len() <= data.len());
        match &entry {
            Entry::File { name, .. } | Entry::Directory { name, .. } => {
                assert!(name.is_empty() || check_name(name).is_ok());
            }
            Entry::Symlink { name, .. } | Entry::Skipped { name } => assert!(check_name(name).is_ok()),
            Entry::HardLink { name, target } => {
                assert!(check_name(name).is_ok() && check_relative(target).is_ok());
            }
            Entry::Leave => {}
        }
    }
    if let Ok(asked) = decode_asked(data) {
        assert_eq!(encode_asked(&asked), data);
    }
    if let Ok(have) = decode_have(data) {
        assert_eq!(encode_have(&have), data);
    }
    if let Ok(total) = Total::decode(data) {
        assert_eq!(total.encode(), data);
    }
});
