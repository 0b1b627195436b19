//! Transactions: completed from a node's word, judged by the limits, signed and broadcast.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, de};
use serde_json::{json, value::RawValue};

use super::{Agent, Body, Failure};
use crate::{
    eth::{Address, Amount, Fee, SignedTransaction, Transaction},
    outside::OutsideError,
    rpc::{Node, NodeError},
    spending::Chain,
};

/// Gas of a transfer without data.
const TRANSFER_GAS: u64 = 21_000;
/// How long a request waits for those before it.
const TURN_WITHIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct SignRequest {
    transaction: Wanted,
    rpc_url: Option<String>,
    secret_token: Option<String>,
    #[serde(default = "yes")]
    broadcast: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    to: String,
    #[serde(default)]
    value: Exact,
    #[serde(default)]
    data: String,
    #[serde(alias = "chainId")]
    chain_id: Option<Exact>,
    nonce: Option<Exact>,
    gas: Option<Exact>,
    #[serde(alias = "gasPrice")]
    gas_price: Option<Exact>,
    #[serde(alias = "maxFeePerGas")]
    max_fee_per_gas: Option<Exact>,
    #[serde(alias = "maxPriorityFeePerGas")]
    max_priority_fee_per_gas: Option<Exact>,
}

/// A whole number as JSON has it, with all its digits, or a string of one.
#[derive(Clone, Copy, Default)]
struct Exact(Amount);

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get().trim_matches('"');
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

pub(super) async fn sign(State(agent): State<Arc<Agent>>, body: Body) -> Response {
    match signed(&agent, &body).await {
        Ok(SignedTransaction { raw, hash }) => Json(json!({
            "signed_transaction": format!("0x{}", hex::encode(raw)),
            "transaction_hash": format!("0x{}", hex::encode(hash)),
        }))
        .into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn signed(agent: &Agent, body: &Body) -> Result<SignedTransaction, Failure> {
    let request: SignRequest = body.json()?;
    check_token(agent, request.secret_token.as_deref())?;
    let (chain, url) = chain(agent, request.rpc_url.as_deref())?;
    let node = Node { outside: &agent.outside, url };
    let turn = tokio::time::timeout(TURN_WITHIN, agent.signing.lock()).await;
    let _turn =
        turn.map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too many transactions wait"))?;
    let transaction = complete(agent, chain, &node, request.transaction).await?;
    agent.spent().count(chain, &transaction).map_err(|refusal| {
        tracing::warn!(chain = chain.id, %refusal, "a transaction was refused");
        Failure::new(StatusCode::FORBIDDEN, refusal)
    })?;
    let signed = transaction.sign(&agent.key);
    tracing::info!(
        chain = chain.id,
        nonce = transaction.nonce,
        hash = hex::encode(signed.hash),
        "signed a transaction"
    );
    let record = json!({
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "to": transaction.to.map(|to| to.to_string()),
        "value": transaction.value.to_string(),
        "hash": format!("0x{}", hex::encode(signed.hash)),
    });
    agent.record("sign-transaction", "", "Action:SIGN_TRANSACTION", &record)?;
    if request.broadcast {
        node.send(&signed).await?;
    }
    Ok(signed)
}

/// Refuses who does not know the token, and everybody as long as there is none.
fn check_token(agent: &Agent, given: Option<&str>) -> Result<(), Failure> {
    let Some(name) = &agent.config.token_variable else { return Ok(()) };
    let variables = agent.variables();
    let Some(token) = variables.value(name) else {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the operator has not set {name} yet"),
        ));
    };
    verify_slices_are_equal(given.unwrap_or_default().as_bytes(), token.as_bytes())
        .map_err(|_| Failure::new(StatusCode::UNAUTHORIZED, "`secret_token` is not the one that was set"))
}

/// The chain, and the node to be asked: of those that the configuration has, the one that the caller names, or the first.
fn chain<'a>(agent: &'a Agent, wanted: Option<&str>) -> Result<(&'a Chain, &'a str), Failure> {
    let nodes =
        || agent.config.chains.iter().flat_map(|chain| chain.rpc.iter().map(move |url| (chain, &**url)));
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    match wanted {
        Some(wanted) => nodes().find(|(_, url)| plain(url) == plain(wanted)),
        None => nodes().next(),
    }
    .ok_or_else(|| {
        Failure::new(StatusCode::FORBIDDEN, "`rpc_url` is not among the nodes that the configuration allows")
    })
}

/// Refuses a node of another chain. It is asked once: what is signed is for the configured chain, whatever a node says later.
async fn check_chain(agent: &Agent, chain: &Chain, node: &Node<'_>) -> Result<(), Failure> {
    if agent.checked_nodes().contains(node.url) {
        return Ok(());
    }
    let said = node.chain_id().await?;
    if said != Amount::from(chain.id) {
        let message = format!("the node is of chain {said}, not {}", chain.id);
        return Err(Failure::new(StatusCode::BAD_GATEWAY, message));
    }
    agent.checked_nodes().insert(node.url.to_owned());
    Ok(())
}

async fn complete(
    agent: &Agent,
    chain: &Chain,
    node: &Node<'_>,
    wanted: Wanted,
) -> Result<Transaction, Failure> {
    let bad = |message: String| Failure::new(StatusCode::BAD_REQUEST, message);
    let small = |name: &str, number: Exact| {
        number.0.to_u64().ok_or_else(|| bad(format!("`{name}` has at most 64 bits")))
    };
    let to: Address = wanted.to.parse().map_err(|error| bad(format!("`to`: {error}")))?;
    let data = hex::decode(wanted.data.strip_prefix("0x").unwrap_or(&wanted.data))
        .map_err(|_| bad("`data` is 0x and bytes in hex".to_owned()))?;
    if wanted.gas_price.is_some() && wanted.max_fee_per_gas.is_some() {
        return Err(bad("either `gas_price` or `max_fee_per_gas`".to_owned()));
    }
    if wanted.max_priority_fee_per_gas.is_some() && wanted.max_fee_per_gas.is_none() {
        return Err(bad("`max_priority_fee_per_gas` needs `max_fee_per_gas`".to_owned()));
    }
    if wanted.chain_id.is_some_and(|Exact(id)| id != Amount::from(chain.id)) {
        return Err(bad(format!("the node is of chain {}", chain.id)));
    }
    let nonce = wanted.nonce.map(|nonce| small("nonce", nonce)).transpose()?;
    let gas = wanted.gas.map(|gas| small("gas", gas)).transpose()?;

    check_chain(agent, chain, node).await?;
    let sender = agent.key.address();
    let fee = match wanted.max_fee_per_gas {
        Some(Exact(max_fee)) => {
            let tip = match wanted.max_priority_fee_per_gas {
                Some(Exact(tip)) => tip,
                None => node.priority_fee().await?.min(max_fee),
            };
            Fee::Market { max_fee, max_priority_fee: tip }
        }
        None => Fee::Legacy {
            gas_price: match wanted.gas_price {
                Some(Exact(price)) => price,
                None => node.gas_price().await?,
            },
        },
    };
    let gas = match gas {
        Some(gas) => gas,
        None if data.is_empty() => TRANSFER_GAS,
        None => node.estimate_gas(&sender, &to, &wanted.value.0, &data).await?,
    };
    let nonce = match nonce {
        Some(nonce) => nonce,
        None => node.nonce(&sender).await?,
    };
    Ok(Transaction { chain_id: chain.id, nonce, fee, gas, to: Some(to), value: wanted.value.0, data })
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "the node did not help");
        let status = match error {
            NodeError::Outside(OutsideError::Slow) => StatusCode::GATEWAY_TIMEOUT,
            NodeError::Outside(OutsideError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error)
    }
}
