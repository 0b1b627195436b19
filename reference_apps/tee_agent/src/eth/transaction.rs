//! Transactions: legacy with the chain in the signature (EIP-155), and with a fee market (EIP-1559, type 2).

use super::{Address, AgentKey, Amount, Signature, keccak256, rlp};

/// What is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The one chain that it is valid on, so that it cannot be replayed on another.
    pub chain_id: u64,
    /// How many transactions the sender has sent before.
    pub nonce: u64,
    /// What is paid for gas.
    pub fee: Fee,
    /// Most gas to be used.
    pub gas: u64,
    /// Who is paid or called; none makes a contract.
    pub to: Option<Address>,
    /// Wei that move.
    pub value: Amount,
    /// What a contract is called with.
    pub data: Vec<u8>,
}

/// What is paid for each unit of gas, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fee {
    /// A legacy transaction: this price.
    Legacy {
        /// The price.
        gas_price: Amount,
    },
    /// A type 2 transaction: the block's price and a tip, together at most this.
    Market {
        /// Most for price and tip.
        max_fee: Amount,
        /// Most for the tip.
        max_priority_fee: Amount,
    },
}

impl Fee {
    /// The most that one unit of gas can cost.
    pub fn most(&self) -> Amount {
        match self {
            Self::Legacy { gas_price } => *gas_price,
            Self::Market { max_fee, .. } => *max_fee,
        }
    }
}

/// A transaction that a node takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    /// The bytes to be sent.
    pub raw: Vec<u8>,
    /// By which it is known: Keccak-256 of those bytes.
    pub hash: [u8; 32],
}

impl Transaction {
    /// What the sender signs.
    pub fn signing_digest(&self) -> [u8; 32] {
        let mut items = self.items();
        if let Fee::Legacy { .. } = self.fee {
            rlp::number(&mut items, &Amount::from(self.chain_id));
            rlp::number(&mut items, &Amount::ZERO);
            rlp::number(&mut items, &Amount::ZERO);
        }
        keccak256(&self.envelope(&items))
    }

    /// Signed by `key`.
    pub fn sign(&self, key: &AgentKey) -> SignedTransaction {
        self.with_signature(&key.sign_digest(&self.signing_digest()))
    }

    /// With a signature over [`Self::signing_digest`].
    pub fn with_signature(&self, signature: &Signature) -> SignedTransaction {
        let parity = Amount::from(u64::from(signature.y_is_odd));
        let v = match self.fee {
            Fee::Legacy { .. } => {
                let chain = Amount::from(self.chain_id);
                let sum = [chain, chain, Amount::from(35), parity]
                    .iter()
                    .try_fold(Amount::ZERO, |a, b| a.checked_add(b));
                sum.expect("a chain's id has 64 bits, so this has at most 66")
            }
            Fee::Market { .. } => parity,
        };
        let mut items = self.items();
        rlp::number(&mut items, &v);
        rlp::number(&mut items, &Amount::from_be_bytes(&signature.r));
        rlp::number(&mut items, &Amount::from_be_bytes(&signature.s));
        let raw = self.envelope(&items);
        SignedTransaction { hash: keccak256(&raw), raw }
    }

    /// The items up to the signature.
    fn items(&self) -> Vec<u8> {
        let mut items = Vec::new();
        if let Fee::Market { .. } = self.fee {
            rlp::number(&mut items, &Amount::from(self.chain_id));
        }
        rlp::number(&mut items, &Amount::from(self.nonce));
        match &self.fee {
            Fee::Legacy { gas_price } => rlp::number(&mut items, gas_price),
            Fee::Market { max_fee, max_priority_fee } => {
                rlp::number(&mut items, max_priority_fee);
                rlp::number(&mut items, max_fee);
            }
        }
        rlp::number(&mut items, &Amount::from(self.gas));
        rlp::bytes(&mut items, self.to.as_ref().map_or(&[], |to| &to.0[..]));
        rlp::number(&mut items, &self.value);
        rlp::bytes(&mut items, &self.data);
        if let Fee::Market { .. } = self.fee {
            // No access list.
            items.extend(rlp::list(&[]));
        }
        items
    }

    fn envelope(&self, items: &[u8]) -> Vec<u8> {
        let list = rlp::list(items);
        match self.fee {
            Fee::Legacy { .. } => list,
            Fee::Market { .. } => [&[2], &list[..]].concat(),
        }
    }
}
