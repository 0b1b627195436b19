//! The header of an entry as bytes: a magic number and thirteen numbers of eight hexadecimal digits each.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// The length of a header in bytes.
pub(super) const HEADER_BYTES: u64 = 110;
pub(super) const MAGIC: [u8; 6] = *b"070701";

/// Fields in their order in the file. The checksum, which this variant of the format leaves at zero, is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) inode: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) modified: u32,
    pub(super) file_size: u32,
    pub(super) device: (u32, u32),
    pub(super) node: (u32, u32),
    /// With the NUL that ends it.
    pub(super) name_size: u32,
}

/// What is wrong with the bytes of a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Magic([u8; 6]),
    /// Which of the thirteen numbers, counted from 0.
    Number(usize),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.inode,
            self.mode,
            self.uid,
            self.gid,
            self.links,
            self.modified,
            self.file_size,
            self.device.0,
            self.device.1,
            self.node.0,
            self.node.1,
            self.name_size,
            0,
        ];
        let mut bytes = MAGIC.to_vec();
        for number in numbers {
            bytes.extend(format!("{number:08x}").into_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; 110]) -> Result<Self, HeaderError> {
        let (magic, digits) = bytes.split_first_chunk().expect("a header is longer than its magic number");
        if *magic != MAGIC {
            return Err(HeaderError::Magic(*magic));
        }
        let mut numbers = [0; 13];
        for (index, (number, digits)) in numbers.iter_mut().zip(digits.chunks(8)).enumerate() {
            *number = hexadecimal(digits).ok_or(HeaderError::Number(index))?;
        }
        let [
            inode,
            mode,
            uid,
            gid,
            links,
            modified,
            file_size,
            major,
            minor,
            node_major,
            node_minor,
            name_size,
            _,
        ] = numbers;
        Ok(Self {
            inode,
            mode,
            uid,
            gid,
            links,
            modified,
            file_size,
            device: (major, minor),
            node: (node_major, node_minor),
            name_size,
        })
    }
}

/// Digits only: the standard library's parser would also take a sign.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number.wrapping_shl(4) | digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_numbers_with_a_sign_or_a_blank() {
        for odd in [b"+0000001", b" 0000001", b"0x000001"] {
            let mut bytes: [u8; 110] = Header::default().encode().try_into().unwrap();
            bytes[6 + 8 * 6..6 + 8 * 7].copy_from_slice(odd);
            assert_eq!(Header::decode(&bytes), Err(HeaderError::Number(6)));
        }
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_it_back(
            (inode, mode, uid, gid) in any::<(u32, u32, u32, u32)>(),
            (links, modified, file_size, name_size) in any::<(u32, u32, u32, u32)>(),
            (device, node) in any::<((u32, u32), (u32, u32))>(),
        ) {
            let header = Header { inode, mode, uid, gid, links, modified, file_size, device, node, name_size };
            let bytes: [u8; 110] = header.encode().try_into().unwrap();
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
        }
    }
}
