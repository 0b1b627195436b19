//! Transfers of tokens: `transfer(address,uint256)` of ERC-20, as a contract's call data.

use super::{Address, Amount};

/// The first four bytes of Keccak-256 of `transfer(address,uint256)`.
const SELECTOR: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];

/// A call of `transfer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Who is paid.
    pub to: Address,
    /// How much, in the token's smallest units.
    pub amount: Amount,
}

impl Transfer {
    /// The call's data: 68 bytes.
    pub fn encode(&self) -> Vec<u8> {
        [&SELECTOR[..], &[0; 12], &self.to.0, &self.amount.to_be_bytes()].concat()
    }

    /// Reads a call's data; none if it is anything but a transfer, and nothing beside.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let data: &[u8; 68] = data.try_into().ok()?;
        let rest = data.strip_prefix(&SELECTOR)?.strip_prefix(&[0; 12])?;
        let (to, amount) = rest.split_first_chunk::<20>()?;
        Some(Self { to: Address(*to), amount: Amount::from_be_bytes(amount.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::eth::keccak256;

    #[test]
    fn the_selector_is_that_of_transfer() {
        assert_eq!(keccak256(b"transfer(address,uint256)")[..4], SELECTOR);
    }

    #[test]
    fn only_a_transfer_is_one() {
        let data = "a9059cbb00000000000000000000000000693cbe3f2581df512635823f46f0d593d96dba0000000000000000000000000000000000000000000000000000048c27395000";
        let data = hex::decode(data).unwrap();
        let transfer = Transfer::decode(&data).unwrap();
        assert_eq!(transfer.to.to_string(), "0x00693cbe3f2581df512635823f46f0d593d96dba");
        assert_eq!(transfer.amount.to_string(), "5000000000000");
        assert_eq!(transfer.encode(), data);

        let mut approve = data.clone();
        approve[..4].copy_from_slice(&[0x09, 0x5e, 0xa7, 0xb3]);
        let mut dirty = data.clone();
        dirty[4] = 1;
        for other in [&approve, &dirty, &data[..67], &[&data[..], &[0]].concat()] {
            assert_eq!(Transfer::decode(other), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_there(data in proptest::collection::vec(any::<u8>(), 0..80), to in any::<[u8; 20]>(), amount in any::<[u8; 32]>()) {
            if let Some(transfer) = Transfer::decode(&data) {
                prop_assert_eq!(transfer.encode(), data);
            }
            let transfer = Transfer { to: Address(to), amount: Amount::from_be_bytes(&amount) };
            prop_assert_eq!(Transfer::decode(&transfer.encode()), Some(transfer));
        }
    }
}
