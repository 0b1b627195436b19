//! Digests that a caller expects of a file: written out, or of a file of this machine.

use std::{fmt, fs::File, io::Read, path::Path};

use anyhow::{Context, Result};
use aws_lc_rs::digest;
use ledger::{Algorithm, Digests};

use crate::exit::Usage;

/// What a file's content has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A digest, of one algorithm or of any that gives so many bytes.
    Digest(Option<Algorithm>, Vec<u8>),
    /// The content of a file of this machine.
    Local(Vec<(Algorithm, Vec<u8>)>),
}

impl Wanted {
    /// Reads `sha256:HEX`, `blake3:HEX`, `sha3-512:HEX`, or digits alone.
    pub(crate) fn parse(text: &str) -> Result<Self, Usage> {
        let wrong = || Usage(format!("--expect {text:?} is not sha256:HEX, blake3:HEX or sha3-512:HEX"));
        let (algorithm, digits) = match text.split_once(':') {
            None => (None, text),
            Some((name, digits)) => {
                let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
                (Some(algorithm.ok_or_else(wrong)?), digits)
            }
        };
        let bytes = hex::decode(digits).map_err(|_| wrong())?;
        let fits = |algorithm: Algorithm| algorithm.bytes() == bytes.len();
        if algorithm.map_or_else(|| Algorithm::ALL.into_iter().any(fits), fits) {
            return Ok(Self::Digest(algorithm, bytes));
        }
        Err(wrong())
    }

    /// Hashes a file of this machine.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        hash(path).map(Self::Local).with_context(|| format!("--local {}", path.display()))
    }

    /// The digest of `found` that is as wanted; `None` when there is none.
    pub(crate) fn matching(&self, found: &Digests) -> Option<Algorithm> {
        let is = |algorithm: Algorithm, wanted: &[u8]| found.of(algorithm) == Some(wanted);
        match self {
            Self::Digest(Some(algorithm), bytes) => is(*algorithm, bytes).then_some(*algorithm),
            Self::Digest(None, bytes) => Algorithm::ALL.into_iter().find(|algorithm| is(*algorithm, bytes)),
            // All that the record has, and one at least.
            Self::Local(digests) => {
                let of = |algorithm| digests.iter().find(|(own, _)| *own == algorithm);
                let same =
                    found.iter().all(|(algorithm, bytes)| of(algorithm).is_some_and(|(_, own)| own == bytes));
                found.iter().next().filter(|_| same).map(|(algorithm, _)| algorithm)
            }
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(None, bytes) => f.write_str(&hex::encode(bytes)),
            Self::Digest(Some(algorithm), bytes) => write!(f, "{}:{}", algorithm.name(), hex::encode(bytes)),
            Self::Local(digests) => {
                let texts = digests
                    .iter()
                    .map(|(algorithm, bytes)| format!("{}:{}", algorithm.name(), hex::encode(bytes)));
                f.write_str(&texts.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

fn hash(path: &Path) -> Result<Vec<(Algorithm, Vec<u8>)>> {
    let (mut sha256, mut sha3) =
        (digest::Context::new(&digest::SHA256), digest::Context::new(&digest::SHA3_512));
    let mut blake3 = blake3::Hasher::new();
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        sha256.update(bytes);
        sha3.update(bytes);
        blake3.update(bytes);
    }
    Ok(vec![
        (Algorithm::Blake3, blake3.finalize().as_bytes().to_vec()),
        (Algorithm::Sha256, sha256.finish().as_ref().to_vec()),
        (Algorithm::Sha3_512, sha3.finish().as_ref().to_vec()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_with_their_algorithm_or_told_by_their_length() {
        let bytes = vec![0xab; 32];
        assert_eq!(Wanted::parse(&"ab".repeat(32)).unwrap(), Wanted::Digest(None, bytes.clone()));
        let named = format!("sha256:{}", "AB".repeat(32));
        assert_eq!(Wanted::parse(&named).unwrap(), Wanted::Digest(Some(Algorithm::Sha256), bytes));
        for text in ["", "ab", "md5:ab", "sha256:", "sha3-512:abab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(Wanted::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_local_file_matches_only_if_every_recorded_digest_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        let wanted = Wanted::of_file(&path).unwrap();
        // FIPS 180-4, example of SHA-256.
        let abc = hex::decode("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").unwrap();
        let right = Digests::new().with(Algorithm::Sha256, &abc);
        assert_eq!(wanted.matching(&right), Some(Algorithm::Sha256));
        assert_eq!(wanted.matching(&right.clone().with(Algorithm::Blake3, &[0; 32])), None);
        assert_eq!(wanted.matching(&Digests::new()), None);
        let one = Wanted::Digest(None, abc);
        assert_eq!(one.matching(&right.with(Algorithm::Blake3, &[0; 32])), Some(Algorithm::Sha256));
        assert_eq!(one.matching(&Digests::new().with(Algorithm::Sha256, &[0; 32])), None);
    }
}
