//! Finds the enclave and what it has to be, and shows it the operator's keys until it knows one.

use std::time::Duration;

use channel::io::OpenError;
use transport::{Addr, Cid, Port};

use super::{Client, Failure, config, own_keys::OwnKeys};
use crate::{
    client::{self, ClientError, Connection},
    expected::Expected,
};

/// Opens the channel that the options describe, and sends `first` with the proof of who is asking.
pub(super) async fn connect(client: &Client, first: &[u8]) -> Result<Connection, Failure> {
    let client = config::complete(client)?;
    let addr = match (&client.addr, client.cid) {
        (Some(addr), _) => addr.clone(),
        (None, Some(cid)) => Addr::Vsock { cid: Cid(cid), port: Port(client.port) },
        (None, None) => {
            let message =
                "say where the enclave is: --addr ADDR, --cid CID, PIPELINE_ADDR or `addr` in the file";
            return Err(Failure::Usage(message.to_owned()));
        }
    };
    let usage = |error: &dyn std::error::Error| Failure::Usage(super::show::chain(error));
    let expected = client.expected.read().map_err(|error| usage(&error))?;
    let expected = Expected::try_from(expected).map_err(|error| usage(&error))?;
    let timeout = Duration::from_secs(client.connect_timeout);
    let mut offered = Vec::new();
    let mut keys = OwnKeys::of(client.identity.as_deref()).await?;
    let mut refused = None;
    while let Some(key) = keys.next() {
        match client::connect(&addr, &expected, Some(&*key.identity), first, timeout).await {
            Err(error) if is_unknown(&error) => refused = Some(error),
            outcome => return Ok(outcome?),
        }
        offered.push(key.to_string());
    }
    match refused {
        Some(source) => Err(Failure::channel(UnknownKeys { offered, source })),
        None => Err(keys.none()),
    }
}

/// Whether the enclave would let in somebody else.
fn is_unknown(error: &ClientError) -> bool {
    let ClientError::Open(error) = error else { return false };
    matches!(
        **error,
        OpenError::Channel(channel::Error::Refused { refusal: channel::Refusal::UnknownKey, .. })
    )
}

/// None of an operator's keys is listed.
#[derive(Debug, thiserror::Error)]
#[error("not let in with {}", offered.join(", nor with "))]
struct UnknownKeys {
    offered: Vec<String>,
    source: ClientError,
}
