//! What a file is that is no tar archive, for whoever named it as one.

use crate::error::LayerError;

/// How files begin, what they are, and what to do with them.
const KNOWN: &[(&[u8], &str, &str)] = &[
    (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (b"BZh", "compressed with bzip2", UNPACK),
    (b"\x04\x22\x4d\x18", "compressed with lz4", UNPACK),
    (b"\x5d\0\0", "compressed with lzma", UNPACK),
    (b"PK\x03\x04", "a zip archive", MAKE_TAR),
    (b"070701", "a cpio archive", MAKE_TAR),
    (b"070707", "a cpio archive", MAKE_TAR),
    (b"!<arch>\n", "an ar archive or Debian package", MAKE_TAR),
    (b"hsqs", "a squashfs image", MAKE_TAR),
    (b"QFI\xfb", "a disk image", MAKE_TAR),
    (b"\x7fELF", "a program", "put it in a directory, and name that"),
    (b".eif", "an enclave image", "give what it was built from"),
];

const UNPACK: &str = "unpack it first; tar archives are read plain or compressed with gzip or Zstandard";
const MAKE_TAR: &str = "make a tar archive of what is in it";

/// Says what a file is by its beginning.
pub(crate) fn not_an_archive(beginning: &[u8]) -> LayerError {
    let known = KNOWN.iter().find(|(magic, _, _)| beginning.starts_with(magic));
    let (found, remedy) = match known {
        Some((_, found, remedy)) => (*found, *remedy),
        None if beginning.is_empty() => ("empty", "was it written to its end?"),
        None => ("not a tar archive", "those are read plain or compressed with gzip or Zstandard"),
    };
    LayerError::NotAnArchive { found, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_called_by_its_name() {
        for (beginning, expected) in [
            (&b"\xfd7zXZ\0\0\x04"[..], "it is compressed with xz: unpack it first"),
            (b"BZh91AY", "it is compressed with bzip2: unpack it first"),
            (b"PK\x03\x04", "it is a zip archive: make a tar archive"),
            (b"\x7fELF\x02", "it is a program: put it in a directory"),
            (b"", "it is empty: was it written"),
            (b"FROM scratch", "it is not a tar archive: those"),
        ] {
            let message = not_an_archive(beginning).to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
