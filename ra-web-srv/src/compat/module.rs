//! The security module and the keys: `/pcrs/`, `/nsm_desc`, `/rng_seq` and `/pubkeys/`.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::module_description::describe_pcrs;
use crate::public::{MAX_RANDOM_BYTES, NSM_CALL_COST, RANDOM_BYTES_PER_CALL, Shared, uncached};
use crate::query::Parameters;

/// How many random bytes there are if nobody says.
const DEFAULT_RANDOM_BYTES: u64 = 512;

/// What goes before the 32 bytes of a key of Curve25519 in a SubjectPublicKeyInfo (RFC 8410): id-Ed25519.
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

pub(super) async fn pcrs(State(state): Shared) -> Result<Response, ApiError> {
    state.budget.spend(32 * NSM_CALL_COST)?;
    let pcrs = state.nsm.ask(describe_pcrs).await?;
    let pcrs = pcrs.into_iter().map(|(index, pcr)| (index.to_string(), Value::from(pcr.value)));
    Ok(uncached(json!({
        "description": "The module's own word, unsigned; documents carry the locked ones.",
        "pcrs": Value::Object(pcrs.collect()),
    })))
}

pub(super) async fn description(State(state): Shared) -> Result<Response, ApiError> {
    state.budget.spend(NSM_CALL_COST)?;
    let module = state.nsm.ask(|nsm| nsm.describe()).await?;
    Ok(uncached(json!({
        "version_major": module.version_major,
        "version_minor": module.version_minor,
        "version_patch": module.version_patch,
        "module_id": module.module_id,
        "max_pcrs": module.max_pcrs,
        "locked_pcrs": module.locked_pcrs,
        "digest": module.digest.name(),
    })))
}

pub(super) async fn random(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["length"])?;
    let length = parameters.number("length", 1..=MAX_RANDOM_BYTES)?.unwrap_or(DEFAULT_RANDOM_BYTES);
    let calls = u32::try_from(length.div_ceil(RANDOM_BYTES_PER_CALL)).expect("at most MAX_RANDOM_BYTES");
    state.budget.spend(calls * NSM_CALL_COST)?;
    let count = usize::try_from(length).expect("at most MAX_RANDOM_BYTES");
    let random = state.nsm.ask(move |nsm| nsm.random(count)).await?;
    Ok(uncached(json!({"length": length, "random_hex": hex::encode(random)})))
}

/// The key of the ledger's VRF, and the TLS key that documents name. No key of this server signs documents: the module does,
/// by a key that each document certifies.
pub(super) async fn public_keys(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["view", "fmt"])?;
    let as_text = match parameters.optional("view")?.unwrap_or(b"text") {
        b"hex" => false,
        b"text" | b"string" => true,
        _ => return Err(ApiError::Choice { name: "view", known: &["hex", "string", "text"] }),
    };
    let as_pem = match parameters.optional("fmt")?.unwrap_or(b"pem") {
        b"pem" => true,
        b"der" => false,
        _ => return Err(ApiError::Choice { name: "fmt", known: &["pem", "der"] }),
    };
    let show = |der: &[u8]| match (as_pem, as_text) {
        (true, true) => pem(der),
        (true, false) => hex::encode(pem(der)),
        // DER is no text.
        (false, _) => hex::encode(der),
    };
    let proofs = match &state.ledger {
        Some(ledger) => {
            let stated = ledger.checkpoint().await?;
            Some(show(&[&ED25519_PREFIX[..], &stated.vrf_key].concat()))
        }
        None => None,
    };
    Ok(uncached(json!({"pubkey4proofs": proofs, "pubkey4docs": show(&state.tls_key)})))
}

/// A SubjectPublicKeyInfo as PEM (RFC 7468, section 13).
fn pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}
