//! `/verify_*`: what a caller could have checked on its own machine, and should have.

use attestation::binding::Ledger;
use attestation::{Document, Roots, UnixTime, VerifyError, verify};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::file::{self, CIPHER_SUITE, ProofData, digest, one_line};
use super::{YOUR_SIDE, body, unhex};
use crate::error::ApiError;
use crate::module_description::describe_pcrs;
use crate::public::{NSM_CALL_COST, Shared, uncached};
use crate::query;

/// What checking signatures costs.
const COST: u32 = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pcrs {
    pcrs: String,
}

/// PCRs as one text, `0: HEX, 1: HEX`, are compared with those that the module has.
pub(super) async fn pcrs(
    State(state): Shared,
    request: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Pcrs { pcrs: provided } = body(request, "pcrs")?;
    state.budget.spend(32 * NSM_CALL_COST)?;
    let actual = state.nsm.ask(describe_pcrs).await?;
    let pairs: Option<Vec<(u16, &str)>> = provided
        .split(',')
        .map(|pair| {
            pair.split_once(':').and_then(|(index, value)| Some((index.trim().parse().ok()?, value.trim())))
        })
        .collect();
    let valid = pairs.is_some_and(|pairs| {
        pairs
            .iter()
            .all(|(index, value)| actual.get(index).is_some_and(|pcr| pcr.value.eq_ignore_ascii_case(value)))
    });
    let actual: Vec<_> = actual.iter().map(|(index, pcr)| format!("{index}: {}", pcr.value)).collect();
    Ok(uncached(json!({
        "valid": valid,
        "message": YOUR_SIDE,
        "provided_pcrs": provided,
        "actual_pcrs": actual.join(", "),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHash {
    file_path: String,
    sha3_hash: String,
}

/// A file's digest is compared with the one that the ledger has.
pub(super) async fn hash(
    State(state): Shared,
    request: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let FileHash { file_path, sha3_hash } = body(request, "file_path, sha3_hash")?;
    query::path(file_path.as_bytes())?;
    unhex("sha3_hash", &sha3_hash)?;
    let found = file::now(&state, &file_path).await?.sha3_hash;
    Ok(uncached(json!({
        "valid": found.eq_ignore_ascii_case(&sha3_hash),
        "file_path": file_path,
        "provided_hash": sha3_hash,
        "computed_hash": found,
        "message": YOUR_SIDE,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    user_data: String,
    public_key: String,
}

/// What `/doc/?view=att_doc_user_data` shows: genuine only as it was shown, to the byte.
pub(super) async fn proof(
    State(state): Shared,
    request: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Proof { user_data, public_key } = body(request, "user_data, public_key")?;
    let (user_data, public_key) = (unhex("user_data", &user_data)?, unhex("public_key", &public_key)?);
    state.budget.spend(COST)?;
    let (valid, found) = match check_proof(&user_data, &public_key) {
        Ok(()) => (true, "A ledger of this state has the file with this digest."),
        Err(reason) => (false, reason),
    };
    Ok(uncached(json!({"valid": valid, "message": format!("{found} {YOUR_SIDE}")})))
}

fn check_proof(user_data: &[u8], public_key: &[u8]) -> Result<(), &'static str> {
    let data: ProofData = serde_json::from_slice(user_data).map_err(|_| "This is no proof of a file.")?;
    if one_line(&data) != user_data {
        return Err("This is not spelt as proofs are.");
    }
    let malformed = "A member is not what it should be.";
    let stated = Ledger::from(&data.ledger);
    if stated.vrf_key != public_key {
        return Err("The ledger has another key of the VRF.");
    }
    let proof = STANDARD.decode(&data.ledger_proof).map_err(|_| malformed)?;
    let found =
        digest(&stated, &data.file_path, &proof).map_err(|_| "The ledger's proof is none of this file.")?;
    if hex::encode(found) != data.sha3_hash {
        return Err("The ledger has the file with another digest.");
    }
    // The proof was verified, VRF included; what is left are the members that say the same again.
    let vrf = ::ledger::Proof::decode(&proof).ok().and_then(|proof| proof.vrf);
    if vrf.map(hex::encode).as_ref() != Some(&data.vrf_proof) || data.vrf_cipher_suite != CIPHER_SUITE {
        return Err("The VRF's proof is not the one in the ledger's.");
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CoseDocument {
    cose_doc_bytes: String,
}

/// A document as it was posted, and whether it verifies under AWS's root at the time that it states.
struct Judged {
    document: Option<Document>,
    outcome: Result<(), VerifyError>,
    now: Result<(), VerifyError>,
}

fn judge(request: Result<Bytes, BytesRejection>) -> Result<Judged, ApiError> {
    let CoseDocument { cose_doc_bytes } = body(request, "cose_doc_bytes")?;
    let bytes = unhex("cose_doc_bytes", &cose_doc_bytes)?;
    let document = Document::decode(&bytes).ok();
    let stated = document.as_ref().map_or(0, |document| document.timestamp_ms);
    let at = |time| verify(&bytes, &Roots::aws(), time).map(|_| ());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = UnixTime::from_millis(u64::try_from(clock.as_millis()).unwrap_or(u64::MAX));
    Ok(Judged { document, outcome: at(UnixTime::from_millis(stated)), now: at(now) })
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

impl Judged {
    fn message(&self) -> String {
        match &self.outcome {
            Ok(()) => format!("Signed under AWS's root at the time that it states. {YOUR_SIDE}"),
            Err(error) => format!("Refused under AWS's root: {}. {YOUR_SIDE}", told(error)),
        }
    }
}

pub(super) async fn document(
    State(state): Shared,
    request: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    state.budget.spend(COST)?;
    let judged = judge(request)?;
    Ok(uncached(json!({"valid": judged.outcome.is_ok(), "message": judged.message()})))
}

pub(super) async fn certificate(
    State(state): Shared,
    request: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    state.budget.spend(COST)?;
    let judged = judge(request)?;
    let certificate = judged.document.as_ref().map(|document| hex::encode(&document.certificate));
    Ok(uncached(json!({
        "signature_valid": judged.outcome.is_ok(),
        "time_valid": judged.now.is_ok(),
        "message": judged.message(),
        "certificate_info": certificate,
    })))
}

pub(super) async fn chain(
    State(state): Shared,
    request: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    state.budget.spend(COST)?;
    let judged = judge(request)?;
    let detail = judged.outcome.as_ref().err().map(|error| told(error));
    Ok(uncached(json!({
        "valid": judged.outcome.is_ok(),
        "message": judged.message(),
        "error_detail": detail,
    })))
}
