//! Modules of a Go program, from the section `.go.buildinfo` that the linker writes.
//!
//! The section begins with a header of 32 bytes (Go, `debug/buildinfo`): 14 bytes of magic, the size of a pointer, and
//! flags. From Go 1.18 on two strings follow, each behind its length as a varint: the version of Go, and the modules.
//! Earlier, the header holds the addresses of two Go strings, each again an address and a length.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Item, Malformed, elf::u64_at, purl::Purl};

/// The section's name.
pub(crate) const SECTION: &str = ".go.buildinfo";
/// Longest section, and longest string in it, that is looked at, in bytes.
pub(crate) const MAX_SECTION_BYTES: u64 = 4 << 20;

const MAGIC: &[u8] = b"\xff Go buildinf:";
const HEADER_BYTES: usize = 32;
const FLAG_BIG_ENDIAN: u8 = 1;
const FLAG_INLINE: u8 = 2;
/// The modules stand between two marks of this length, which the runtime finds them by.
const MARK_BYTES: usize = 16;

/// Reads the section. `at_address` gives bytes of the program by their address.
pub(crate) fn read(
    section: &[u8],
    mut at_address: impl FnMut(u64, u64) -> Option<Vec<u8>>,
) -> Result<Vec<Item>, Malformed> {
    let (Some(&pointer_bytes), Some(&flags)) = (section.get(14), section.get(15)) else {
        return Err(Malformed("build information of Go that is cut short"));
    };
    if !section.starts_with(MAGIC) {
        return Err(Malformed("build information of Go without its magic"));
    }
    let strings = if flags & FLAG_INLINE != 0 {
        inline(section)
    } else if pointer_bytes == 8 && flags & FLAG_BIG_ENDIAN == 0 {
        [16, 24].iter().map(|at| pointed(u64_at(section, *at)?, &mut at_address)).collect()
    } else {
        None
    };
    match strings.as_deref() {
        Some([go, modules]) => items(go, modules),
        _ => Err(Malformed("build information of Go that leads nowhere")),
    }
}

/// The two strings behind the header.
fn inline(section: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (go, rest) = counted(section.get(HEADER_BYTES..)?)?;
    let (modules, _) = counted(rest)?;
    Some(vec![go.to_vec(), modules.to_vec()])
}

/// A string behind its length as a varint (Go, `encoding/binary`: seven bits a byte, the lowest first).
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len: usize = 0;
    for (place, byte) in bytes.iter().enumerate().take(4) {
        let shift = u32::try_from(place).ok()?.checked_mul(7)?;
        len |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return bytes.get(place.checked_add(1)?..)?.split_at_checked(len);
        }
    }
    None
}

/// The string whose header is at this address.
fn pointed(address: u64, at_address: &mut impl FnMut(u64, u64) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let header = at_address(address, 16)?;
    let (text, len) = (u64_at(&header, 0)?, u64_at(&header, 8)?);
    match len {
        0 => Some(Vec::new()),
        1..=MAX_SECTION_BYTES => at_address(text, len),
        _ => None,
    }
}

fn items(go: &[u8], modules: &[u8]) -> Result<Vec<Item>, Malformed> {
    let not_text = |_| Malformed("build information of Go that is not text");
    let go = std::str::from_utf8(go).map_err(not_text)?;
    let mut items = vec![module("stdlib", go.split(' ').next().and_then(|go| go.strip_prefix("go")))?];
    let modules = modules.get(MARK_BYTES..modules.len().saturating_sub(MARK_BYTES)).unwrap_or_default();
    for line in std::str::from_utf8(modules).map_err(not_text)?.lines() {
        let mut words = line.split('\t');
        let (kind, path, version) = (words.next(), words.next(), words.next());
        match (kind, path) {
            (Some("mod" | "dep"), Some(path)) => items.push(module(path, version)?),
            // What stands in the place of the module before.
            (Some("=>"), Some(path)) => {
                items.pop();
                items.push(module(path, version)?);
            }
            _ => {}
        }
    }
    Ok(items)
}

fn module(path: &str, version: Option<&str>) -> Result<Item, Malformed> {
    // A main module that was built from a working tree has no version.
    let version = version.filter(|version| !version.is_empty() && *version != "(devel)");
    Item::new(path, version, &Purl::golang(path, version), None)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::{
        super::elf::{Elf, tests::program},
        *,
    };

    const MODULES: &str = "path\texample.com/App/cmd\nmod\texample.com/App\t(devel)\t\n\
        dep\tgithub.com/Masterminds/semver\tv1.5.0\th1:x=\ndep\told.example/y\tv0.1.0\n=>\tnew.example/y\tv0.2.0\th1:z=\n\
        build\t-compiler=gc\n";

    fn header(flags: u8) -> Vec<u8> {
        let mut header = [MAGIC, &[8, flags]].concat();
        header.resize(HEADER_BYTES, 0);
        header
    }

    fn marked() -> Vec<u8> {
        [&[0x30; 16], MODULES.as_bytes(), &[0xf9; 16]].concat()
    }

    fn expected() -> Vec<String> {
        [
            "pkg:golang/stdlib@1.21.5",
            "pkg:golang/example.com/app",
            "pkg:golang/github.com/masterminds/semver@v1.5.0",
            "pkg:golang/new.example/y@v0.2.0",
        ]
        .map(String::from)
        .to_vec()
    }

    fn found(file: Vec<u8>) -> Vec<String> {
        let mut elf = Elf::open(Cursor::new(file)).unwrap().unwrap();
        let section = elf.section(SECTION, MAX_SECTION_BYTES).unwrap().unwrap();
        let items = read(&section, |address, bytes| elf.at_address(address, bytes)).unwrap();
        items.into_iter().map(|item| item.purl).collect()
    }

    #[test]
    fn reads_strings_behind_the_header() {
        let modules = marked();
        let len = modules.len();
        let varint = [u8::try_from(len & 0x7f).unwrap() | 0x80, u8::try_from(len >> 7).unwrap()];
        let section = [&header(FLAG_INLINE)[..], &[8], b"go1.21.5", &varint, &modules].concat();
        assert_eq!(found(program(&[(SECTION, 0x4000, &section)])), expected());
    }

    #[test]
    fn reads_strings_behind_addresses() {
        let mut section = header(0);
        section[16..24].copy_from_slice(&0x5000u64.to_le_bytes());
        section[24..32].copy_from_slice(&0x5010u64.to_le_bytes());
        let modules = marked();
        let headers = [0x6000, 8, 0x6008, modules.len() as u64].map(u64::to_le_bytes).concat();
        let texts = [b"go1.21.5", &modules[..]].concat();
        let file =
            program(&[(SECTION, 0x4000, &section), (".data", 0x5000, &headers), (".rodata", 0x6000, &texts)]);
        assert_eq!(found(file), expected());
    }

    #[test]
    fn says_what_leads_nowhere() {
        assert!(read(b"", |_, _| None).is_err());
        assert!(read(&header(0), |_, _| None).is_err());
        assert!(read(&[&header(FLAG_INLINE)[..], &[0xff; 9]].concat(), |_, _| None).is_err());
        assert!(read(&[&header(FLAG_INLINE)[..], &[200, 1, b'x']].concat(), |_, _| None).is_err());
    }

    proptest! {
        #[test]
        fn any_section_is_read_or_refused(rest in proptest::collection::vec(any::<u8>(), 0..200), flags in 0u8..4) {
            let _ = read(&rest, |_, _| Some(rest.clone()));
            let section = [&header(flags)[..], &rest].concat();
            let _ = read(&section, |_, _| Some(rest.clone()));
        }
    }
}
