//! Paths that operators name and patterns of what to leave out: what is accepted has one spelling and no way up.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline::transfer::{Excludes, RemotePath, check_relative, printable};

fuzz_target!(|data: &[u8]| {
    if let Ok(path) = RemotePath::parse(data) {
        let bytes = path.to_bytes();
        assert_eq!(RemotePath::parse(&bytes).as_ref(), Ok(&path));
        assert!(bytes.starts_with(b"/") && bytes.len() <= data.len());
        assert!(!bytes.contains(&0) && bytes.split(|byte| *byte == b'/').all(|name| name != b".."));
        assert!(path.is_within(&path) && path.is_within(&RemotePath::parse(b"/").expect("the root is a path")));
    }
    if check_relative(data).is_ok() {
        assert!(!data.starts_with(b"/") && data.split(|byte| *byte == b'/').all(|name| name != b".."));
    }
    assert!(!printable(data).chars().any(char::is_control));
    let patterns: Vec<_> = data.split(|byte| *byte == b'\n').collect();
    let _ = Excludes::parse(&patterns);
});
