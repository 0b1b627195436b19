//! A node of an Ethereum chain, asked by JSON-RPC. What it says is not believed further than the limits of [`crate::spending`].

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    eth::{Address, Amount, SignedTransaction},
    outside::{Outside, OutsideError},
};

/// How long a node has for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest reason of a node that is passed on, in characters.
const MAX_REASON_CHARS: usize = 200;

/// One node.
#[derive(Debug)]
pub struct Node<'a> {
    /// The client.
    pub outside: &'a Outside,
    /// Its URL.
    pub url: &'a str,
}

/// Why a node did not help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It cannot be asked.
    #[error("the node: {0}")]
    Outside(#[from] OutsideError),
    /// It refused.
    #[error("the node refused {method}: {reason}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// Why it refused, as it says, cut.
        reason: String,
    },
    /// Its answer is not of the form.
    #[error("the node's answer to {method} is not what was asked for")]
    Answer {
        /// What was asked.
        method: &'static str,
    },
}

impl Node<'_> {
    /// The id of its chain.
    ///
    /// # Errors
    /// [`NodeError`], here and below.
    pub async fn chain_id(&self) -> Result<Amount, NodeError> {
        self.quantity("eth_chainId", json!([])).await
    }

    /// How many transactions the account has sent, those included that wait.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn nonce(&self, account: &Address) -> Result<u64, NodeError> {
        let method = "eth_getTransactionCount";
        let count = self.quantity(method, json!([account.to_string(), "pending"])).await?;
        count.to_u64().ok_or(NodeError::Answer { method })
    }

    /// The price of gas, for a legacy transaction.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn gas_price(&self) -> Result<Amount, NodeError> {
        self.quantity("eth_gasPrice", json!([])).await
    }

    /// A tip that will do.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn priority_fee(&self) -> Result<Amount, NodeError> {
        self.quantity("eth_maxPriorityFeePerGas", json!([])).await
    }

    /// The gas that a call will take.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn estimate_gas(
        &self,
        from: &Address,
        to: &Address,
        value: &Amount,
        data: &[u8],
    ) -> Result<u64, NodeError> {
        let method = "eth_estimateGas";
        let call = json!({
            "from": from.to_string(),
            "to": to.to_string(),
            "value": value.to_quantity(),
            "data": format!("0x{}", hex::encode(data)),
        });
        let gas = self.quantity(method, json!([call])).await?;
        gas.to_u64().ok_or(NodeError::Answer { method })
    }

    /// Has a transaction broadcast.
    ///
    /// # Errors
    /// [`NodeError`]; the node has the transaction all the same, and may broadcast it.
    pub async fn send(&self, transaction: &SignedTransaction) -> Result<(), NodeError> {
        let method = "eth_sendRawTransaction";
        // The hash in its answer is not looked at: it is known here.
        let sent = self.ask(method, json!([format!("0x{}", hex::encode(&transaction.raw))])).await?;
        if sent.is_string() { Ok(()) } else { Err(NodeError::Answer { method }) }
    }

    async fn quantity(&self, method: &'static str, params: Value) -> Result<Amount, NodeError> {
        let result = self.ask(method, params).await?;
        let text = result.as_str().filter(|text| text.starts_with("0x"));
        text.and_then(|text| text.parse().ok()).ok_or(NodeError::Answer { method })
    }

    async fn ask(&self, method: &'static str, params: Value) -> Result<Value, NodeError> {
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let text = self.outside.post(self.url, None, question.to_string(), ANSWER_WITHIN).await?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|_| NodeError::Answer { method })?;
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            let reason = error["message"].as_str().unwrap_or("no reason given");
            let reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect();
            return Err(NodeError::Refused { method, reason });
        }
        answer.get_mut("result").map(Value::take).ok_or(NodeError::Answer { method })
    }
}
