//! Crates of a Rust program that `cargo auditable` built: the section `.dep-v0`, zlib over JSON
//! (<https://github.com/rust-secure-code/cargo-auditable>, PARSING.md).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::Read;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::{Item, Malformed, purl::Purl};

/// The section's name.
pub(crate) const SECTION: &str = ".dep-v0";
/// Longest section that is looked at, in bytes.
pub(crate) const MAX_SECTION_BYTES: u64 = 1 << 20;
/// Longest JSON in it, in bytes.
const MAX_JSON_BYTES: u64 = 8 << 20;

#[derive(Deserialize)]
struct Dependencies {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    kind: Option<String>,
}

/// Reads the section. Crates that only the build used are not in the program and are left away.
pub(crate) fn read(section: &[u8]) -> Result<Vec<Item>, Malformed> {
    let mut json = Vec::new();
    ZlibDecoder::new(section)
        .take(MAX_JSON_BYTES)
        .read_to_end(&mut json)
        .map_err(|_| Malformed("a list of crates that is not zlib data"))?;
    let found: Dependencies =
        serde_json::from_slice(&json).map_err(|_| Malformed("a list of crates that is not of its form"))?;
    let shipped = found.packages.into_iter().filter(|package| package.kind.as_deref() != Some("build"));
    shipped.map(|p| Item::new(&p.name, Some(&p.version), &Purl::cargo(&p.name, &p.version), None)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    pub(super) fn section(json: &str) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(json.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lists_crates_that_are_in_the_program() {
        let json = r#"{"packages":[{"name":"app","version":"0.1.0","source":"local","dependencies":[1],"root":true},
            {"name":"libc","version":"0.2.150","source":"crates.io"},
            {"name":"cc","version":"1.0.83","source":"crates.io","kind":"build"}]}"#;
        let found: Vec<_> = read(&section(json)).unwrap().into_iter().map(|item| item.purl).collect();
        assert_eq!(found, ["pkg:cargo/app@0.1.0", "pkg:cargo/libc@0.2.150"]);
    }

    #[test]
    fn refuses_other_data_and_a_bomb() {
        assert!(read(b"").is_err());
        assert!(read(b"not zlib").is_err());
        assert!(read(&section("{}")).is_err());
        assert!(read(&section(&" ".repeat(9 << 20))).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,60}") {
            let _ = read(&bytes);
            let _ = read(&section(&text));
        }
    }
}
