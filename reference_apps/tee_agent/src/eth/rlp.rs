//! RLP, the writing half: byte strings, numbers without leading zeros, and lists of them.

use super::Amount;

/// Appends a byte string.
pub(super) fn bytes(out: &mut Vec<u8>, string: &[u8]) {
    match string {
        [single] if *single < 0x80 => out.push(*single),
        _ => {
            head(out, 0x80, string.len());
            out.extend_from_slice(string);
        }
    }
}

/// Appends a number: its bytes from the first that is not zero, so none for zero.
pub(super) fn number(out: &mut Vec<u8>, amount: &Amount) {
    bytes(out, trimmed(&amount.to_be_bytes()));
}

/// A list of items that are encoded already.
pub(super) fn list(items: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + 9);
    head(&mut out, 0xc0, items.len());
    out.extend_from_slice(items);
    out
}

/// Lengths below 56 are in the first byte; others follow it, and it says how many bytes they have.
fn head(out: &mut Vec<u8>, base: u8, len: usize) {
    match u8::try_from(len) {
        Ok(short) if short < 56 => out.push(base + short),
        _ => {
            let len = len.to_be_bytes();
            let len = trimmed(&len);
            let count = u8::try_from(len.len()).expect("a length has at most 8 bytes");
            out.push(base + 55 + count);
            out.extend_from_slice(len);
        }
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(input: &[u8]) -> String {
        let mut out = Vec::new();
        bytes(&mut out, input);
        hex::encode(out)
    }

    /// The examples of the Yellow Paper's appendix B and of the Ethereum wiki.
    #[test]
    fn encodes_the_published_examples() {
        assert_eq!(string(b"dog"), "83646f67");
        assert_eq!(string(b""), "80");
        assert_eq!(string(&[0]), "00");
        assert_eq!(string(&[0x0f]), "0f");
        assert_eq!(string(&[0x7f]), "7f");
        assert_eq!(string(&[0x80]), "8180");
        let lorem = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit";
        assert_eq!(string(lorem), format!("b838{}", hex::encode(lorem)));
        assert_eq!(string(&[7; 55]), format!("b7{}", "07".repeat(55)));
        assert_eq!(string(&[7; 256]), format!("b90100{}", "07".repeat(256)));

        assert_eq!(list(&[]), [0xc0]);
        let mut cat_dog = Vec::new();
        bytes(&mut cat_dog, b"cat");
        bytes(&mut cat_dog, b"dog");
        assert_eq!(hex::encode(list(&cat_dog)), "c88363617483646f67");
        assert_eq!(list(&[7; 56])[..2], [0xf8, 56]);
    }

    #[test]
    fn numbers_have_no_leading_zeros() {
        for (decimal, encoded) in
            [("0", "80"), ("15", "0f"), ("127", "7f"), ("128", "8180"), ("1024", "820400")]
        {
            let mut out = Vec::new();
            number(&mut out, &decimal.parse().unwrap());
            assert_eq!(hex::encode(out), encoded);
        }
    }
}
