//! Files, as the ledger has them: `/generate`, `/ready/`, `/hash/`, `/proof/` and `/doc/`.
//!
//! The digest is SHA3-512, which the manifest has to ask for (`monitor.digests`). The VRF is the one that places files in the
//! ledger's map, over the path alone; what the file is then is proven by the ledger.

use ::attestation::binding::{Ledger as Stated, Statement};
use ::attestation::{Sha256, batch::NoncePath};
use ::ledger::{Algorithm, Anchor, Checkpoint, Content, FileNow, Hash, Proof, State as FileState};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::view::View;
use crate::attester::{Attested, Company};
use crate::error::ApiError;
use crate::ledger::LedgerError;
use crate::public::{PublicState, Shared, decode_nonce, file_target, uncached};
use crate::query::{self, Parameters};

/// What one proof costs: the ledger computes it, and it is read here.
const PROOF_COST: u32 = 30;

/// The name of the ledger's VRF (RFC 9381, section 5.5).
pub(super) const CIPHER_SUITE: &str = "ECVRF-EDWARDS25519-SHA512-TAI";

/// Goes before the path in the nonce of a document that nobody sent a nonce for.
const NO_NONCE_TAG: &[u8] = b"glasshouse document without a nonce v1\n";

/// What is proven of a file, as `/proof/` answers it and `/verify_proof/` takes it, in this order and on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProofData {
    pub(super) file_path: String,
    /// In hex.
    pub(super) sha3_hash: String,
    /// In hex.
    pub(super) vrf_proof: String,
    pub(super) vrf_cipher_suite: String,
    /// The ledger's proof (`docs/spec/ledger.md`), base64.
    pub(super) ledger_proof: String,
    /// The checkpoint that the proof is for, as in the binding statement.
    pub(super) ledger: StatedLedger,
}

/// The state of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatedLedger {
    vrf_key: Sha256,
    size: u64,
    log_root: Sha256,
    map_root: Sha256,
}

impl From<&StatedLedger> for Stated {
    fn from(ledger: &StatedLedger) -> Self {
        let StatedLedger { vrf_key, size, log_root, map_root } = *ledger;
        Self { vrf_key: vrf_key.0, size, log_root, map_root }
    }
}

impl From<&Stated> for StatedLedger {
    fn from(ledger: &Stated) -> Self {
        let Stated { vrf_key, size, log_root, map_root } = *ledger;
        Self { vrf_key: Sha256(vrf_key), size, log_root, map_root }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generate {
    path: String,
}

/// Files are hashed when they change, not when somebody asks: this says whether this one was.
pub(super) async fn generate(
    State(state): Shared,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Generate { path } = super::body(body, "path")?;
    recorded(&state, &path).await?;
    let answer = json!({"status": "recorded", "path": path});
    Ok((StatusCode::ACCEPTED, uncached(answer)).into_response())
}

pub(super) async fn ready(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let path = path(&Parameters::parse(query.as_deref(), &["path"])?)?;
    let digest = now(&state, &path).await?.sha3_hash;
    Ok(uncached(json!({"file_path": path, "sha3_hash": digest, "status": "Ready"})))
}

pub(super) async fn hash(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let path = path(&Parameters::parse(query.as_deref(), &["path"])?)?;
    let digest = now(&state, &path).await?.sha3_hash;
    Ok(uncached(json!({"file_path": path, "sha3_hash": digest})))
}

pub(super) async fn proof(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let path = path(&Parameters::parse(query.as_deref(), &["path"])?)?;
    Ok(uncached(now(&state, &path).await?))
}

#[derive(Serialize)]
struct Doc {
    #[serde(flatten)]
    proof: ProofData,
    att_doc: Value,
    nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<NoncePath>,
    note: &'static str,
}

pub(super) async fn doc(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["path", "view", "nonce"])?;
    let path = path(&parameters)?;
    let view = View::parse(parameters.optional("view")?)?;
    let (nonce, note) = match parameters.optional("nonce")? {
        Some(digits) => (
            decode_nonce(digits, 8)?,
            "The document is fresh to who drew its nonce. Verify it on your own machine.",
        ),
        None => (
            Sha256::of(&[NO_NONCE_TAG, path.as_bytes()].concat()).0.to_vec(),
            "Without a nonce of yours (&nonce=HEX) this document is not fresh: it was made at some time.",
        ),
    };
    state.ledger()?;
    let Attested { document, path: batch, statement } =
        state.attester.attest(nonce.clone(), Company::Unwanted).await?;
    let proof = proven(&state, &path, &statement).await?;
    let att_doc = view.show(&document, &proof, &statement)?;
    Ok(uncached(Doc { proof, att_doc, nonce: hex::encode(nonce), batch, note }))
}

/// The path that a query asks for. JSON has no others than those of UTF-8.
fn path(parameters: &Parameters) -> Result<String, ApiError> {
    String::from_utf8(parameters.path("path")?.to_vec()).map_err(|_| ApiError::Path)
}

/// What is proven of the file for the ledger as it is.
pub(super) async fn now(state: &PublicState, path: &str) -> Result<ProofData, ApiError> {
    state.ledger()?;
    let statement = state.binding.statement().await?;
    proven(state, path, &statement).await
}

async fn recorded(state: &PublicState, path: &str) -> Result<(), ApiError> {
    query::path(path.as_bytes())?;
    now(state, path).await.map(|_| ()).or_else(|error| match error {
        // There, and nothing that has a digest.
        ApiError::NoDigest => Ok(()),
        error => Err(error),
    })
}

async fn proven(state: &PublicState, path: &str, statement: &Statement) -> Result<ProofData, ApiError> {
    state.budget.spend(PROOF_COST)?;
    let stated = statement.ledger().ok_or(ApiError::NoLedger)?;
    let target = file_target("proof", path.as_bytes(), stated.size);
    let proof = state.ledger()?.get_fixed(&target).await?.body;
    let decoded = Proof::decode(&proof).map_err(|source| failed(LedgerError::Proof(source)))?;
    let digest = digest(stated, path, &proof)?;
    Ok(ProofData {
        file_path: path.to_owned(),
        sha3_hash: hex::encode(digest),
        vrf_proof: hex::encode(decoded.vrf.unwrap_or([0; _])),
        vrf_cipher_suite: CIPHER_SUITE.to_owned(),
        ledger_proof: STANDARD.encode(proof),
        ledger: stated.into(),
    })
}

fn failed(error: LedgerError) -> ApiError {
    ApiError::LedgerFailed(error)
}

/// The digest that `proof` proves of the file at `path`, for the ledger as `stated`.
pub(super) fn digest(stated: &Stated, path: &str, proof: &[u8]) -> Result<Vec<u8>, ApiError> {
    let Stated { vrf_key, size, log_root, map_root } = stated;
    let checkpoint = Checkpoint { size: *size, log_root: Hash(log_root.0), map_root: Hash(map_root.0) };
    let anchor = Anchor::new(checkpoint, vrf_key).map_err(|source| failed(LedgerError::Vrf(source)))?;
    let now =
        anchor.verify_file(path.as_bytes(), proof).map_err(|source| failed(LedgerError::Verify(source)))?;
    let FileNow::Recorded(observation) = now else { return Err(ApiError::NoSuchFile) };
    match observation.record.state {
        FileState::Removed => Err(ApiError::NoSuchFile),
        FileState::Present(_, Content::File { digests, .. } | Content::Directory { digests, .. }) => {
            digests.of(Algorithm::Sha3_512).map(<[u8]>::to_vec).ok_or(ApiError::NoDigest)
        }
        FileState::Present(..) => Err(ApiError::NoDigest),
    }
}

/// `ProofData` as the bytes that `/verify_proof/` takes.
pub(super) fn one_line(data: &ProofData) -> Vec<u8> {
    serde_json::to_vec(data).expect("texts are JSON")
}
