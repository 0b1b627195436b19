//! What of Ethereum the agent needs: keys, addresses, amounts, messages, transactions. No IO, no clock.

mod address;
mod amount;
pub mod erc20;
mod key;
mod rlp;
mod transaction;

use sha3::{Digest, Keccak256};

pub use self::{
    address::{Address, AddressError},
    amount::{Amount, AmountError},
    key::{AgentKey, KeyError, OperatorKey, Signature, message_digest, recover},
    transaction::{Fee, SignedTransaction, Transaction},
};

/// Keccak-256 as Ethereum uses it, which is not SHA3-256.
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}
