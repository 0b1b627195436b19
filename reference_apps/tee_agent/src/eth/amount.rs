//! Amounts: whole numbers below 2^256, exact from JSON to the signed bytes.

use std::{fmt, str::FromStr};

use k256::elliptic_curve::bigint::{CheckedAdd, CheckedMul, U256};

/// Decimal digits of 2^256 - 1.
const MAX_DECIMAL_DIGITS: usize = 78;
/// Hex digits of 2^256 - 1.
const MAX_HEX_DIGITS: usize = 64;

/// A number of wei, of a token's smallest units, or of gas. Text: decimal, or `0x` and hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(U256);

/// A text that is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a whole number below 2^256, decimal or 0x and hex digits")]
pub struct AmountError;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(U256::ZERO);

    /// From 32 bytes, the most significant first.
    pub fn from_be_bytes(bytes: &[u8; 32]) -> Self {
        Self(U256::from_be_slice(bytes))
    }

    /// 32 bytes, the most significant first.
    pub fn to_be_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.to_be_bytes().as_ref());
        bytes
    }

    /// The sum, unless it is 2^256 or more.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        self.0.checked_add(&other.0).into_option().map(Self)
    }

    /// The product, unless it is 2^256 or more.
    pub fn checked_mul(&self, other: &Self) -> Option<Self> {
        CheckedMul::checked_mul(&self.0, &other.0).into_option().map(Self)
    }

    /// The number, if it fits.
    pub fn to_u64(&self) -> Option<u64> {
        let bytes = self.to_be_bytes();
        let (high, low) = bytes.split_at(24);
        high.iter()
            .all(|byte| *byte == 0)
            .then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// `0x` and hex digits without leading zeros, as JSON-RPC nodes want them.
    pub fn to_quantity(&self) -> String {
        let digits = hex::encode(self.to_be_bytes());
        let trimmed = digits.trim_start_matches('0');
        format!("0x{}", if trimmed.is_empty() { "0" } else { trimmed })
    }
}

impl From<u64> for Amount {
    fn from(number: u64) -> Self {
        Self(U256::from_u64(number))
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (digits, radix, most) = match text.strip_prefix("0x") {
            Some(digits) => (digits, 16, MAX_HEX_DIGITS),
            None => (text, 10, MAX_DECIMAL_DIGITS),
        };
        if digits.is_empty() || digits.len() > most || !digits.chars().all(|digit| digit.is_digit(radix)) {
            return Err(AmountError);
        }
        U256::from_str_radix_vartime(digits, radix).map(Self).map_err(|_| AmountError)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Division by ten on paper, until nothing is left.
        let mut bytes = self.to_be_bytes();
        let mut digits = Vec::new();
        while digits.is_empty() || bytes != [0; 32] {
            let mut remainder = 0_u16;
            for byte in &mut bytes {
                let part = remainder << 8 | u16::from(*byte);
                *byte =
                    u8::try_from(part / 10).expect("the remainder is below ten, so the part is below 2560");
                remainder = part % 10;
            }
            digits.push(char::from_digit(remainder.into(), 10).expect("a remainder of ten is a digit"));
        }
        f.write_str(&digits.iter().rev().collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";

    #[test]
    fn the_largest_is_read_and_one_more_is_not() {
        let most: Amount = MOST.parse().unwrap();
        assert_eq!(most.to_be_bytes(), [0xff; 32]);
        assert_eq!(most.to_string(), MOST);
        assert_eq!(most.checked_add(&Amount::from(1)), None);
        assert_eq!(most.checked_mul(&Amount::from(2)), None);
        assert_eq!(most.to_u64(), None);
        assert_eq!(MOST.replace("9935", "9936").parse::<Amount>(), Err(AmountError));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "0x", "-1", "+1", "1.0", "1e3", "1_000", "0xfg", " 1", "١", &"0".repeat(79)] {
            assert_eq!(text.parse::<Amount>(), Err(AmountError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_form_is_read_back(bytes in any::<[u8; 32]>(), small in any::<u64>()) {
            let amount = Amount::from_be_bytes(&bytes);
            prop_assert_eq!(amount.to_be_bytes(), bytes);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            prop_assert_eq!(amount.to_quantity().parse(), Ok(amount));
            prop_assert_eq!(Amount::from(small).to_string(), small.to_string());
            prop_assert_eq!(Amount::from(small).to_quantity(), format!("{small:#x}"));
            prop_assert_eq!(Amount::from(small).to_u64(), Some(small));
        }

        #[test]
        fn arithmetic_is_that_of_numbers(a in any::<u64>(), b in any::<u64>()) {
            let (x, y) = (Amount::from(a), Amount::from(b));
            let sum = (u128::from(a) + u128::from(b)).to_string();
            let product = (u128::from(a) * u128::from(b)).to_string();
            prop_assert_eq!(x.checked_add(&y).unwrap().to_string(), sum);
            prop_assert_eq!(x.checked_mul(&y).unwrap().to_string(), product);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
