//! The fixed-size structures of an image file as bytes: the header and the header of a section.
//!
//! Encoding and field extraction only: whether offsets, sizes and kinds make sense together is [`crate::reader`]'s
//! to judge. All integers are big endian. See `docs/spec/eif.md`, "Header" and "Section header".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

/// The length of the header at the start of a file, in bytes.
pub const HEADER_BYTES: u64 = 548;
/// The length of the header before each section's data, in bytes.
pub const SECTION_HEADER_BYTES: u64 = 12;
/// The number of places in the header's section table.
pub const MAX_SECTIONS: usize = 32;
/// The version this crate writes: the first with a metadata section.
pub const VERSION: u16 = 4;

pub(crate) const MAGIC: [u8; 4] = *b".eif";
/// The first version whose header carries a checksum.
pub(crate) const OLDEST_READABLE_VERSION: u16 = 2;
/// The first version with a signature section.
pub(crate) const SIGNATURE_VERSION: u16 = 3;
/// The checksum is the header's last field and covers everything but itself.
pub(crate) const CRC_BYTES: usize = 4;
const ARM64_FLAG: u16 = 1;

pub(crate) type RawHeader = [u8; 548];
pub(crate) type RawSectionHeader = [u8; 12];

/// The processor an image is for: bit 0 of the header's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86 (bit clear).
    #[default]
    X86_64,
    /// 64-bit ARM (bit set).
    Aarch64,
}

impl Architecture {
    pub(crate) fn from_flags(flags: u16) -> Self {
        if flags & ARM64_FLAG == 0 { Self::X86_64 } else { Self::Aarch64 }
    }

    pub(crate) fn flags(self) -> u16 {
        match self {
            Self::X86_64 => 0,
            Self::Aarch64 => ARM64_FLAG,
        }
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// The kernel image: 1.
    Kernel,
    /// The kernel's command line, without a terminating NUL: 2.
    Cmdline,
    /// An initial ramdisk: 3.
    Ramdisk,
    /// The signature over PCR0: 4.
    Signature,
    /// JSON about the image, not measured: 5.
    Metadata,
}

impl SectionKind {
    pub(crate) fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Kernel,
            2 => Self::Cmdline,
            3 => Self::Ramdisk,
            4 => Self::Signature,
            5 => Self::Metadata,
            _ => return None,
        })
    }

    fn code(self) -> u16 {
        match self {
            Self::Kernel => 1,
            Self::Cmdline => 2,
            Self::Ramdisk => 3,
            Self::Signature => 4,
            Self::Metadata => 5,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Cmdline => "cmdline",
            Self::Ramdisk => "ramdisk",
            Self::Signature => "signature",
            Self::Metadata => "metadata",
        })
    }
}

/// The header's fields, unjudged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderFields {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    pub(crate) flags: u16,
    pub(crate) default_memory_bytes: u64,
    pub(crate) default_cpus: u64,
    pub(crate) section_count: u16,
    /// Where each section's header starts, from the start of the file.
    pub(crate) offsets: [u64; MAX_SECTIONS],
    /// The length of each section's data, its header not counted.
    pub(crate) sizes: [u64; MAX_SECTIONS],
    pub(crate) crc: u32,
}

impl HeaderFields {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<RawHeader>());
        bytes.extend(self.magic);
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.default_memory_bytes.to_be_bytes());
        bytes.extend(self.default_cpus.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.section_count.to_be_bytes());
        bytes.extend(self.offsets.iter().flat_map(|offset| offset.to_be_bytes()));
        bytes.extend(self.sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend([0; 4]);
        bytes.extend(self.crc.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &RawHeader) -> Self {
        let mut fields = Fields(bytes);
        let magic = fields.take();
        let version = u16::from_be_bytes(fields.take());
        let flags = u16::from_be_bytes(fields.take());
        let default_memory_bytes = u64::from_be_bytes(fields.take());
        let default_cpus = u64::from_be_bytes(fields.take());
        let _reserved: [u8; 2] = fields.take();
        let section_count = u16::from_be_bytes(fields.take());
        let offsets = std::array::from_fn(|_| u64::from_be_bytes(fields.take()));
        let sizes = std::array::from_fn(|_| u64::from_be_bytes(fields.take()));
        let _unused: [u8; 4] = fields.take();
        let crc = u32::from_be_bytes(fields.take());
        Self { magic, version, flags, default_memory_bytes, default_cpus, section_count, offsets, sizes, crc }
    }
}

/// A section header's fields, unjudged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionFields {
    pub(crate) code: u16,
    pub(crate) flags: u16,
    pub(crate) size: u64,
}

impl SectionFields {
    pub(crate) fn new(kind: SectionKind, size: u64) -> Self {
        Self { code: kind.code(), flags: 0, size }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<RawSectionHeader>());
        bytes.extend(self.code.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &RawSectionHeader) -> Self {
        let mut fields = Fields(bytes);
        Self {
            code: u16::from_be_bytes(fields.take()),
            flags: u16::from_be_bytes(fields.take()),
            size: u64::from_be_bytes(fields.take()),
        }
    }
}

/// Hands out the fields of a structure whose length the type system knows.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.0.split_first_chunk().expect("the fields of a structure add up to its length");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_548_bytes_with_the_checksum_last() {
        let fields = HeaderFields { crc: 0xdead_beef, ..HeaderFields::decode(&[0; 548]) };
        let bytes = fields.encode();
        assert_eq!(bytes.len() as u64, HEADER_BYTES);
        assert!(bytes.ends_with(&[0xde, 0xad, 0xbe, 0xef]));
    }

    #[test]
    fn a_section_header_is_12_bytes() {
        let bytes = SectionFields::new(SectionKind::Metadata, 0x0102).encode();
        assert_eq!(bytes, [0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(bytes.len() as u64, SECTION_HEADER_BYTES);
    }

    #[test]
    fn every_kind_has_its_own_code_and_no_other_code_is_known() {
        for code in 0..=u16::MAX {
            match SectionKind::from_code(code) {
                Some(kind) => assert_eq!(kind.code(), code),
                None => assert!(code == 0 || code > 5),
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_it_back(
            (version, flags, section_count, crc) in any::<(u16, u16, u16, u32)>(),
            (default_memory_bytes, default_cpus) in any::<(u64, u64)>(),
            (offsets, sizes) in any::<([u64; MAX_SECTIONS], [u64; MAX_SECTIONS])>(),
            (code, size) in any::<(u16, u64)>(),
        ) {
            let header = HeaderFields {
                magic: MAGIC, version, flags, default_memory_bytes, default_cpus, section_count, offsets, sizes, crc,
            };
            let bytes: RawHeader = header.encode().try_into().unwrap();
            prop_assert_eq!(HeaderFields::decode(&bytes), header);

            let section = SectionFields { code, flags, size };
            let bytes: RawSectionHeader = section.encode().try_into().unwrap();
            prop_assert_eq!(SectionFields::decode(&bytes), section);
        }
    }
}
