//! The keyUsage extension (RFC 5280 section 4.2.1.3), which AWS's validation rules require and the certificate
//! library ignores.
//!
//! Reads just enough DER to find the extension, in certificates that the library has parsed already. It can only
//! make verification stricter: whatever it cannot read counts as a missing usage.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// A usage that a key of the chain must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    DigitalSignature,
    KeyCertSign,
}

impl Usage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Usage::DigitalSignature => "digitalSignature",
            Usage::KeyCertSign => "keyCertSign",
        }
    }

    /// The usage's bit in the first byte of the BIT STRING, where bit 0 is the most significant.
    fn mask(self) -> u8 {
        match self {
            Usage::DigitalSignature => 0x80,
            Usage::KeyCertSign => 0x04,
        }
    }
}

/// Whether the certificate `der` has a keyUsage extension with `usage`.
pub(crate) fn permits(der: &[u8], usage: Usage) -> bool {
    key_usage(der).is_some_and(|bits| bits & usage.mask() != 0)
}

const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `extensions [3]` of a TBSCertificate.
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.15
const ID_CE_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];

fn key_usage(der: &[u8]) -> Option<u8> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (tbs, _) = element(certificate, SEQUENCE)?;
    let extensions = find(tbs, |tag, content| (tag == EXTENSIONS).then_some(content))?;
    let (extensions, _) = element(extensions, SEQUENCE)?;
    let value = find(extensions, |_, extension| {
        let (oid, rest) = element(extension, OBJECT_IDENTIFIER)?;
        (oid == ID_CE_KEY_USAGE).then_some(rest)
    })?;
    // Between identifier and value there may be the BOOLEAN `critical`.
    let value = find(value, |tag, content| (tag == OCTET_STRING).then_some(content))?;
    let (bits, _) = element(value, BIT_STRING)?;
    // The first byte counts the unused bits at the end.
    bits.get(1).copied()
}

/// The first element of `sequence` for which `wanted` gives something.
fn find<'a>(mut sequence: &'a [u8], wanted: impl Fn(u8, &'a [u8]) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
    loop {
        let (tag, content, rest) = any_element(sequence)?;
        if let Some(found) = wanted(tag, content) {
            return Some(found);
        }
        sequence = rest;
    }
}

/// The content of the element that `input` begins with, if its tag is `tag`, and what follows.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any_element(input)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the element that `input` begins with, and what follows.
fn any_element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, input) = input.split_first()?;
    let (&length, input) = input.split_first()?;
    let (length, input) = match length {
        0..=0x7f => (usize::from(length), input),
        0x81 => input.split_first().map(|(n, rest)| (usize::from(*n), rest))?,
        0x82 => input.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_be_bytes(*n)), rest))?,
        // Certificates have at most 1024 bytes.
        _ => return None,
    };
    let (content, rest) = input.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "the documents of the tests have these certificates")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Document;

    #[test]
    fn reads_the_usages_of_genuine_certificates() {
        let document = Document::decode(include_bytes!("../testdata/oyster_aws.cose")).unwrap();
        // 1 digitalSignature, nonRepudiation; 2 digitalSignature, keyCertSign, cRLSign; 3 keyCertSign.
        assert_eq!(key_usage(&document.certificate), Some(0xc0));
        assert_eq!(key_usage(&document.cabundle[1]), Some(0x86));
        assert_eq!(key_usage(&document.cabundle[3]), Some(0x04));
        assert!(!permits(&document.cabundle[3], Usage::DigitalSignature));
        assert!(!permits(&document.certificate, Usage::KeyCertSign));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(der in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = key_usage(&der);
        }

        #[test]
        fn a_cut_certificate_permits_nothing(cut in 0_usize..400) {
            let document = Document::decode(include_bytes!("../testdata/oyster_aws.cose")).unwrap();
            prop_assert_eq!(key_usage(&document.certificate[..cut]), None);
        }
    }
}
