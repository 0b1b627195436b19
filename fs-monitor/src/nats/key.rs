//! Under which key the record of a file lies in a bucket, so that any path is legal: `docs/spec/nats.md`.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};

/// Longest spelled path, in bytes: a server takes subjects of less than 4 KiB, and some tools less.
const MAX_SPELLED_BYTES: usize = 1024;

/// The key of the file at `path` of one ledger: `LEDGER.` and the path, in which every byte but `A-Z a-z 0-9 - _ /` is `=HH`.
/// One that is longer than 1,024 bytes then is `sha256-HEX` of the path; no path begins like that.
pub(super) fn key(ledger: &str, path: &[u8]) -> String {
    let mut spelled = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'/' => spelled.push(char::from(*byte)),
            other => write!(spelled, "={other:02X}").expect("a string takes everything"),
        }
    }
    if spelled.len() > MAX_SPELLED_BYTES {
        spelled = format!("sha256-{}", hex::encode(digest(&SHA256, path)));
    }
    format!("{ledger}.{spelled}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_spelled_or_hashed() {
        assert_eq!(key("ab", b"/app/a.b=c d\n\xff-_"), "ab./app/a=2Eb=3Dc=20d=0A=FF-_");
        let long = [b"/".as_slice(), &[b'a'; 1024]].concat();
        assert_eq!(key("ab", &long[..1024]).len(), 3 + 1024);
        assert_eq!(key("ab", &long), format!("ab.sha256-{}", hex::encode(digest(&SHA256, &long))));
    }

    proptest! {
        #[test]
        fn any_path_has_a_legal_key_of_its_own(a in proptest::collection::vec(1_u8.., 0..500), b in proptest::collection::vec(1_u8.., 0..500)) {
            let spelled = |path: &[u8]| key("ab", &[b"/", path].concat());
            let legal = |c: char| c.is_ascii_alphanumeric() || "-/_=.".contains(c);
            prop_assert!(spelled(&a).chars().all(legal) && spelled(&a).matches('.').count() == 1 && !spelled(&a).ends_with('.'));
            prop_assert_eq!(spelled(&a) == spelled(&b), a == b);
        }
    }
}
