//! Sections of a program by name (System V ABI, "ELF-64 Object File Format").
//!
//! Only what compilers for enclaves make is read: 64 bits, little-endian. A program is never held in memory whole.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, Read, Seek, SeekFrom};

const HEADER_BYTES: u64 = 64;
const SECTION_BYTES: usize = 64;
/// Most sections of a program that is looked at.
const MAX_SECTIONS: u64 = 4096;
/// Longest table of sections' names, in bytes.
const MAX_NAME_TABLE_BYTES: u64 = 1 << 20;
/// A section that takes no room in the file (`SHT_NOBITS`).
const NO_BITS: u32 = 8;

/// A program and where its sections are.
#[derive(Debug)]
pub(crate) struct Elf<R> {
    file: R,
    sections: Vec<Section>,
    names: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Section {
    name: usize,
    kind: u32,
    address: u64,
    offset: u64,
    bytes: u64,
}

impl<R: Read + Seek> Elf<R> {
    /// Reads the tables of a program. What is no program of the expected kind, or has no sections, is `None`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn open(mut file: R) -> io::Result<Option<Self>> {
        let header = read_at(&mut file, 0, HEADER_BYTES)?;
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return Ok(None);
        }
        let (Some(table), Some(entry_bytes), Some(count), Some(names_at)) =
            (u64_at(&header, 40), u16_at(&header, 58), u16_at(&header, 60), u16_at(&header, 62))
        else {
            return Ok(None);
        };
        if usize::from(entry_bytes) != SECTION_BYTES || u64::from(count) > MAX_SECTIONS {
            return Ok(None);
        }
        let table = read_at(&mut file, table, u64::from(count).saturating_mul(SECTION_BYTES as u64))?;
        let sections: Vec<Section> = table.chunks_exact(SECTION_BYTES).filter_map(Section::parse).collect();
        let Some(names) = sections.get(usize::from(names_at)) else { return Ok(None) };
        let names = read_at(&mut file, names.offset, names.bytes.min(MAX_NAME_TABLE_BYTES))?;
        Ok(Some(Self { file, sections, names }))
    }

    /// What a section holds. `None` if there is no such section; what is beyond `limit` bytes is left away.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn section(&mut self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let is_it = |section: &&Section| self.name(section) == Some(name.as_bytes());
        let Some(&section) = self.sections.iter().find(is_it) else { return Ok(None) };
        if section.kind == NO_BITS {
            return Ok(None);
        }
        read_at(&mut self.file, section.offset, section.bytes.min(limit)).map(Some)
    }

    /// What is at an address once the program is loaded. `None` if the file holds nothing that is loaded there.
    pub(crate) fn at_address(&mut self, address: u64, bytes: u64) -> Option<Vec<u8>> {
        let end = address.checked_add(bytes)?;
        let holds = |section: &&Section| {
            let section_end = section.address.saturating_add(section.bytes);
            section.kind != NO_BITS
                && section.address != 0
                && (section.address..=section_end).contains(&address)
                && end <= section_end
        };
        let section = *self.sections.iter().find(holds)?;
        let offset = section.offset.checked_add(address.checked_sub(section.address)?)?;
        let found = read_at(&mut self.file, offset, bytes).ok()?;
        (found.len() as u64 == bytes).then_some(found)
    }

    fn name(&self, section: &Section) -> Option<&[u8]> {
        self.names.get(section.name..)?.split(|b| *b == 0).next()
    }
}

impl Section {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            name: usize::try_from(u32_at(bytes, 0)?).ok()?,
            kind: u32_at(bytes, 4)?,
            address: u64_at(bytes, 16)?,
            offset: u64_at(bytes, 24)?,
            bytes: u64_at(bytes, 32)?,
        })
    }
}

/// The bytes at an offset, fewer if the file ends.
fn read_at(file: &mut (impl Read + Seek), offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    // A seek beyond what a position can be is one beyond the end.
    if i64::try_from(offset).is_ok() {
        file.seek(SeekFrom::Start(offset))?;
        file.take(bytes).read_to_end(&mut found)?;
    }
    Ok(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The little-endian number at an offset.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A program with these sections, each at its address.
    pub(crate) fn program(sections: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut names = vec![0];
        let mut table = vec![0; SECTION_BYTES];
        let put = |table: &mut Vec<u8>, file: &mut Vec<u8>, name: usize, address: u64, content: &[u8]| {
            let mut entry = [0; SECTION_BYTES];
            entry[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
            entry[4] = 1;
            entry[16..24].copy_from_slice(&address.to_le_bytes());
            entry[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file.extend_from_slice(content);
            table.extend_from_slice(&entry);
        };
        for (name, address, content) in sections {
            let at = names.len();
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            put(&mut table, &mut file, at, *address, content);
        }
        let names = names.clone();
        put(&mut table, &mut file, 0, 0, &names);
        let count = u16::try_from(table.len() / SECTION_BYTES).unwrap();
        let at = file.len() as u64;
        file[40..48].copy_from_slice(&at.to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&count.to_le_bytes());
        file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
        file.extend_from_slice(&table);
        file
    }

    #[test]
    fn finds_sections_by_name_and_by_address() {
        let file = program(&[(".one", 0x1000, b"first"), (".two", 0x2000, b"second")]);
        let mut elf = Elf::open(Cursor::new(file)).unwrap().unwrap();
        assert_eq!(elf.section(".two", 99).unwrap().unwrap(), b"second");
        assert_eq!(elf.section(".two", 3).unwrap().unwrap(), b"sec");
        assert_eq!(elf.section(".three", 99).unwrap(), None);
        assert_eq!(elf.at_address(0x2002, 4).unwrap(), b"cond");
        assert_eq!(elf.at_address(0x2002, 5), None);
        assert_eq!(elf.at_address(u64::MAX, 5), None);
    }

    #[test]
    fn this_test_is_a_program() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let mut elf = Elf::open(file).unwrap().unwrap();
        assert!(elf.section(".text", 100).unwrap().unwrap().len() == 100);
    }

    proptest! {
        #[test]
        fn any_bytes_behind_the_magic_are_read(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0u64..300,
            flips in proptest::collection::vec((0usize..500, any::<u8>()), 0..6),
        ) {
            let random = [b"\x7fELF\x02\x01", &bytes[..]].concat();
            let mut damaged = program(&[(".x", 8, &bytes)]);
            for (place, byte) in flips {
                if let Some(found) = damaged.get_mut(place) {
                    *found = byte;
                }
            }
            for file in [random, damaged] {
                if let Some(mut elf) = Elf::open(Cursor::new(file)).unwrap() {
                    elf.section(".x", 1000).unwrap();
                    elf.at_address(at, 16);
                }
            }
        }
    }
}
