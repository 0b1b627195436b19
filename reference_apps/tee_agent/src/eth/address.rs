//! Addresses: the last 20 bytes of the Keccak-256 of a public key.

use std::{fmt, str::FromStr};

use super::keccak256;

/// Twenty bytes that name an account or a contract. Text: `0x` and 40 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 20]);

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Of another form.
    #[error("an address is 0x and 40 hex digits")]
    Form,
    /// Upper and lower case do not fit the digits (EIP-55): a digit is wrong.
    #[error("the address's upper and lower case are not its checksum (EIP-55)")]
    Checksum,
}

impl Address {
    /// The address of an uncompressed public key without its first byte: x and y, 64 bytes.
    pub fn of_public_key(point: &[u8; 64]) -> Self {
        let [_, _, _, _, _, _, _, _, _, _, _, _, address @ ..] = keccak256(point);
        Self(address)
    }

    /// The text with a checksum in its case (EIP-55).
    pub fn checksummed(&self) -> String {
        let digits = hex::encode(self.0);
        let digest = hex::encode(keccak256(digits.as_bytes()));
        let cased = digits
            .chars()
            .zip(digest.chars())
            .map(|(digit, check)| if check >= '8' { digit.to_ascii_uppercase() } else { digit });
        ['0', 'x'].into_iter().chain(cased).collect()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Lower case, upper case, or mixed; mixed case has to be the checksum.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let digits = text.strip_prefix("0x").ok_or(AddressError::Form)?;
        let mut bytes = [0; 20];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| AddressError::Form)?;
        let address = Self(bytes);
        let (upper, lower) =
            (digits.bytes().any(|b| b.is_ascii_uppercase()), digits.bytes().any(|b| b.is_ascii_lowercase()));
        if upper && lower && address.checksummed() != text {
            return Err(AddressError::Checksum);
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    /// Lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_eip_55() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.checksummed(), text);
            assert_eq!(address.to_string(), text.to_lowercase());
            assert_eq!(text.to_lowercase().parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "0x",
            "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "0x5aaeb6053f3e94c9b9a09f33669435e7ef1bea",
            "0xé",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Form), "{text}");
        }
        let flipped = "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert_eq!(flipped.parse::<Address>(), Err(AddressError::Checksum));
    }
}
