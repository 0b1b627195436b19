//! What the agent may pay: limits from the measured configuration, and what of them is used up.
//!
//! A transaction counts when it is signed, with the most that its gas can cost: whoever has the signed bytes can send them.

use std::collections::BTreeMap;

use crate::eth::{Address, Amount, Transaction, erc20::Transfer};

/// What may be signed for one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The chain's id (EIP-155).
    pub id: u64,
    /// Nodes that may be asked, by their URLs. The first is asked unless a caller names another of them.
    pub rpc: Vec<String>,
    /// Most gas of one transaction.
    pub max_gas: u64,
    /// Most wei for one unit of gas.
    pub max_gas_price: Amount,
    /// Most wei of one transaction: its value and the most that its gas can cost.
    pub per_transaction: Amount,
    /// Most wei of all transactions that the agent signs for this chain with its key.
    pub total: Amount,
    /// Who may be paid, and called.
    pub destinations: Vec<Destination>,
    /// Tokens that may be transferred.
    pub tokens: Vec<Token>,
}

/// Who may be paid in the chain's own coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Who.
    pub address: Address,
    /// Whether data may go with it: any call of this contract.
    pub call: bool,
}

/// A token that may be transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its contract.
    pub address: Address,
    /// Most of one transfer, in smallest units.
    pub per_transaction: Amount,
    /// Most of all transfers.
    pub total: Amount,
    /// Who may receive it; none means anybody.
    pub recipients: Option<Vec<Address>>,
}

/// Why a transaction is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The destination is not listed.
    #[error("{0} is not among the destinations that the configuration allows")]
    Destination(Address),
    /// It has no destination.
    #[error("a transaction without a destination is not signed")]
    NoDestination,
    /// There is data for somebody who may only be paid.
    #[error("{0} may be paid, not called: `data` has to be empty")]
    Call(Address),
    /// A token's contract is called for anything but a transfer, or paid.
    #[error("of the token {0} only `transfer(address,uint256)` with value 0 is signed")]
    NotATransfer(Address),
    /// More than is allowed.
    #[error("{what} {found} is more than the {limit} that the configuration allows")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What was asked for, used up before included.
        found: Amount,
        /// What is allowed.
        limit: Amount,
    },
    /// A sum that is no amount.
    #[error("amounts and fees add up to more than 2^256")]
    Overflow,
}

/// What is used up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    coins: BTreeMap<u64, Amount>,
    tokens: BTreeMap<(u64, Address), Amount>,
}

impl Spent {
    /// Judges a transaction, and counts it if it may be signed.
    ///
    /// # Errors
    /// [`Refusal`] as its variants say; then nothing was counted.
    pub fn count(&mut self, chain: &Chain, transaction: &Transaction) -> Result<(), Refusal> {
        let transfer = judge_destination(chain, transaction)?;
        within("gas", Amount::from(transaction.gas), Amount::from(chain.max_gas))?;
        within("gas price", transaction.fee.most(), chain.max_gas_price)?;
        let fee =
            Amount::from(transaction.gas).checked_mul(&transaction.fee.most()).ok_or(Refusal::Overflow)?;
        let cost = fee.checked_add(&transaction.value).ok_or(Refusal::Overflow)?;
        within("value and fee", cost, chain.per_transaction)?;
        let coins = self.coins.get(&chain.id).unwrap_or(&Amount::ZERO);
        let coins = coins.checked_add(&cost).ok_or(Refusal::Overflow)?;
        within("value and fees of all transactions", coins, chain.total)?;

        if let Some((token, transfer)) = transfer {
            within("amount", transfer.amount, token.per_transaction)?;
            let sum = self.tokens.entry((chain.id, token.address)).or_default();
            let next = sum.checked_add(&transfer.amount).ok_or(Refusal::Overflow)?;
            within("amount of all transfers", next, token.total)?;
            *sum = next;
        }
        self.coins.insert(chain.id, coins);
        Ok(())
    }

    /// Wei used up of a chain's total.
    pub fn coins(&self, chain: u64) -> Amount {
        self.coins.get(&chain).copied().unwrap_or_default()
    }
}

/// Which token is transferred, if one is.
fn judge_destination<'a>(
    chain: &'a Chain,
    transaction: &Transaction,
) -> Result<Option<(&'a Token, Transfer)>, Refusal> {
    let to = transaction.to.ok_or(Refusal::NoDestination)?;
    if let Some(token) = chain.tokens.iter().find(|token| token.address == to) {
        let transfer = Transfer::decode(&transaction.data).filter(|_| transaction.value == Amount::ZERO);
        let transfer = transfer.ok_or(Refusal::NotATransfer(to))?;
        if token.recipients.as_ref().is_some_and(|allowed| !allowed.contains(&transfer.to)) {
            return Err(Refusal::Destination(transfer.to));
        }
        return Ok(Some((token, transfer)));
    }
    let listed = chain.destinations.iter().find(|listed| listed.address == to);
    match listed.ok_or(Refusal::Destination(to))? {
        Destination { call: false, .. } if !transaction.data.is_empty() => Err(Refusal::Call(to)),
        _ => Ok(None),
    }
}

fn within(what: &'static str, found: Amount, limit: Amount) -> Result<(), Refusal> {
    if found > limit { Err(Refusal::Limit { what, found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eth::Fee;

    const PAYEE: Address = Address([1; 20]);
    const CONTRACT: Address = Address([2; 20]);
    const TOKEN: Address = Address([3; 20]);
    const STRANGER: Address = Address([4; 20]);

    fn chain() -> Chain {
        Chain {
            id: 1,
            rpc: vec![],
            max_gas: 100,
            max_gas_price: Amount::from(10),
            per_transaction: Amount::from(1_000),
            total: Amount::from(2_500),
            destinations: vec![
                Destination { address: PAYEE, call: false },
                Destination { address: CONTRACT, call: true },
            ],
            tokens: vec![Token {
                address: TOKEN,
                per_transaction: Amount::from(50),
                total: Amount::from(120),
                recipients: Some(vec![PAYEE]),
            }],
        }
    }

    fn pay(to: Address, value: u64, data: &[u8]) -> Transaction {
        Transaction {
            chain_id: 1,
            nonce: 0,
            fee: Fee::Legacy { gas_price: Amount::from(2) },
            gas: 100,
            to: Some(to),
            value: Amount::from(value),
            data: data.to_vec(),
        }
    }

    fn transfer(to: Address, amount: Amount) -> Transaction {
        pay(TOKEN, 0, &Transfer { to, amount }.encode())
    }

    fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), Refusal> {
        Err(Refusal::Limit { what, found: found.into(), limit: limit.into() })
    }

    #[test]
    fn only_who_is_listed_is_paid_and_called() {
        let mut spent = Spent::default();
        assert_eq!(spent.count(&chain(), &pay(STRANGER, 1, &[])), Err(Refusal::Destination(STRANGER)));
        assert_eq!(spent.count(&chain(), &pay(PAYEE, 1, &[0])), Err(Refusal::Call(PAYEE)));
        assert_eq!(
            spent.count(&chain(), &Transaction { to: None, ..pay(PAYEE, 1, &[]) }),
            Err(Refusal::NoDestination)
        );
        assert_eq!(spent, Spent::default());
        assert_eq!(spent.count(&chain(), &pay(CONTRACT, 1, &[0])), Ok(()));
        assert_eq!(spent.count(&chain(), &pay(PAYEE, 1, &[])), Ok(()));
        assert_eq!(spent.coins(1), Amount::from(402));
    }

    #[test]
    fn fees_count_with_the_value_in_one_and_in_all() {
        let mut spent = Spent::default();
        assert_eq!(spent.count(&chain(), &pay(PAYEE, 801, &[])), limit("value and fee", 1_001, 1_000));
        for _ in 0..2 {
            assert_eq!(spent.count(&chain(), &pay(PAYEE, 800, &[])), Ok(()));
        }
        let over = limit("value and fees of all transactions", 2_501, 2_500);
        assert_eq!(spent.count(&chain(), &pay(PAYEE, 301, &[])), over);
        assert_eq!(spent.count(&chain(), &pay(PAYEE, 300, &[])), Ok(()));
        let dear = |max_fee: u64| Transaction {
            fee: Fee::Market { max_fee: max_fee.into(), max_priority_fee: Amount::ZERO },
            ..pay(PAYEE, 0, &[])
        };
        assert_eq!(Spent::default().count(&chain(), &dear(11)), limit("gas price", 11, 10));
        assert_eq!(Spent::default().count(&chain(), &dear(10)), Ok(()));
        let much = Transaction { gas: 101, ..pay(PAYEE, 0, &[]) };
        assert_eq!(Spent::default().count(&chain(), &much), limit("gas", 101, 100));
        let most = Transaction { value: Amount::from_be_bytes(&[0xff; 32]), ..pay(PAYEE, 0, &[]) };
        assert_eq!(Spent::default().count(&chain(), &most), Err(Refusal::Overflow));
    }

    #[test]
    fn of_a_token_only_transfers_within_its_limits() {
        let mut spent = Spent::default();
        assert_eq!(spent.count(&chain(), &transfer(STRANGER, 1.into())), Err(Refusal::Destination(STRANGER)));
        let paid = Transaction { value: 1.into(), ..transfer(PAYEE, 1.into()) };
        assert_eq!(spent.count(&chain(), &paid), Err(Refusal::NotATransfer(TOKEN)));
        assert_eq!(spent.count(&chain(), &pay(TOKEN, 0, b"approve")), Err(Refusal::NotATransfer(TOKEN)));
        assert_eq!(spent.count(&chain(), &transfer(PAYEE, 51.into())), limit("amount", 51, 50));
        for _ in 0..2 {
            assert_eq!(spent.count(&chain(), &transfer(PAYEE, 50.into())), Ok(()));
        }
        let over = limit("amount of all transfers", 121, 120);
        assert_eq!(spent.count(&chain(), &transfer(PAYEE, 21.into())), over);
        let anybody = Token { recipients: None, ..chain().tokens[0].clone() };
        let chain = Chain { tokens: vec![anybody], ..chain() };
        assert_eq!(spent.count(&chain, &transfer(STRANGER, 20.into())), Ok(()));
        assert_eq!(spent.coins(1), Amount::from(600));
    }
}
