//! `GET /v1/bundle`: everything that answers a question, in one file (`docs/spec/bundle.md`).

use ::attestation::bundle::{
    Base64, Bundle, Consistency, MAX_BUNDLE_BYTES, MAX_TRANSCRIPT_ENTRIES, Name, Proof, ProofKind,
};
use ::attestation::{Sha256, binding};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::ledger::{BASELINE, consistency_target, file_target, is_stream, stream_target};
use super::{PublicState, Shared, attestation};
use crate::attester::{Attested, Company};
use crate::error::ApiError;
use crate::ledger::{Ledger, LedgerError};
use crate::query::{self, Parameters};

/// Most proofs in one bundle of this server.
const MAX_PROOFS: usize = 32;

/// What one proof costs that has to be computed.
const PROOF_COST: u32 = 50;

/// Most bytes of a transcript in a bundle, which base64 makes a third longer.
const MAX_TRANSCRIPT_BYTES: usize = MAX_BUNDLE_BYTES / 4;

/// What a bundle is to answer.
struct Question {
    nonce: Vec<u8>,
    subjects: Vec<(ProofKind, Vec<u8>)>,
    since: Option<u64>,
}

pub(super) async fn bundle(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let question = Question::read(query.as_deref())?;
    let about_ledger = !question.subjects.is_empty() || question.since.is_some();
    if about_ledger {
        state.ledger()?;
    }
    state.budget.spend(PROOF_COST.saturating_mul(question.subjects.len().try_into().unwrap_or(u32::MAX)))?;
    let attested = state.attester.attest(question.nonce.clone(), Company::Welcome).await?;
    let Attested { document, path, statement } = attested;
    let mut bundle = Bundle::new(document.to_vec(), question.nonce);
    bundle.batch = path;
    bundle.tls_key = Some(Base64(state.tls_key.to_vec()));
    bundle.manifest = state.manifest.as_ref().map(|manifest| Base64(manifest.to_vec()));
    bundle.transcript = transcript(&state).await?;
    if let (Some(ledger), Some(checkpoint)) = (&state.ledger, statement.ledger()) {
        let answered = Answered { ledger, checkpoint: *checkpoint };
        bundle.proofs = answered.proofs(&question.subjects).await?;
        bundle.baseline = answered.baseline().await?;
        let measured = bundle.baseline.as_ref().map(|baseline| measured_size(&baseline.0)).transpose()?;
        bundle.consistency = answered.consistency(measured, question.since).await?;
    }
    let bytes = bundle.encode().map_err(|_| ApiError::BundleTooLong)?;
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "application/json")];
    Ok((headers, bytes).into_response())
}

impl Question {
    fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let parameters = Parameters::parse(query, &["nonce", "file", "history", "stream", "since"])?;
        let nonce = attestation::nonce(&parameters)?;
        let mut subjects = Vec::new();
        for (name, kind) in [("file", ProofKind::File), ("history", ProofKind::History)] {
            for path in parameters.all(name) {
                subjects.push((kind, query::path(path)?.to_vec()));
            }
        }
        for name in parameters.all("stream") {
            let known = std::str::from_utf8(name).is_ok_and(is_stream);
            known.then(|| subjects.push((ProofKind::Stream, name.to_vec()))).ok_or(ApiError::StreamName)?;
        }
        if subjects.len() > MAX_PROOFS {
            return Err(ApiError::TooManyProofs { found: subjects.len(), most: MAX_PROOFS });
        }
        Ok(Self { nonce, subjects, since: parameters.number("since", 0..=u64::MAX)? })
    }
}

/// The ledger, at the checkpoint that the document states.
struct Answered<'a> {
    ledger: &'a Ledger,
    checkpoint: binding::Ledger,
}

/// What the ledger answers of two sizes.
#[derive(Deserialize)]
struct Hashes {
    hashes: Vec<Sha256>,
}

impl Answered<'_> {
    async fn proofs(&self, subjects: &[(ProofKind, Vec<u8>)]) -> Result<Vec<Proof>, ApiError> {
        let at = self.checkpoint.size;
        let mut proofs = Vec::with_capacity(subjects.len());
        for (kind, subject) in subjects {
            let target = match kind {
                ProofKind::File => file_target("proof", subject, at),
                ProofKind::History => file_target("history", subject, at),
                ProofKind::Stream => stream_target(&String::from_utf8_lossy(subject), at),
            };
            let answer = self.ledger.get_fixed(&target).await?;
            proofs.push(Proof {
                kind: *kind,
                subject: Name(subject.clone()),
                proof: Base64(answer.body.to_vec()),
            });
        }
        Ok(proofs)
    }

    /// `None` where nothing was measured: in an image without monitored files, or before the first scan is done.
    async fn baseline(&self) -> Result<Option<Base64>, ApiError> {
        match self.ledger.get_fixed(BASELINE).await {
            Ok(answer) => Ok(Some(Base64(answer.body.to_vec()))),
            Err(ApiError::LedgerRefused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// That the log has only grown since it was measured, and since the checkpoint that the verifier has kept.
    async fn consistency(
        &self,
        measured: Option<u64>,
        since: Option<u64>,
    ) -> Result<Vec<Consistency>, ApiError> {
        let to = self.checkpoint.size;
        let mut proven: Vec<Consistency> = Vec::new();
        for from in measured.into_iter().chain(since) {
            if from > to {
                return Err(ApiError::Since { from, to });
            }
            if proven.iter().any(|proven| proven.from == from) {
                continue;
            }
            let answer = self.ledger.get_fixed(&consistency_target(from, to)).await?;
            let Hashes { hashes } = serde_json::from_slice(&answer.body)
                .map_err(|source| ApiError::LedgerFailed(LedgerError::Json(source)))?;
            proven.push(Consistency { from, to, hashes });
        }
        Ok(proven)
    }
}

/// All entries of the control channel, or nothing if the image has none.
async fn transcript(state: &PublicState) -> Result<Option<Vec<Base64>>, ApiError> {
    let Some(trace) = &state.control else { return Ok(None) };
    let most = MAX_TRANSCRIPT_ENTRIES as u64;
    let entries = trace.entries(1, most + 1, MAX_TRANSCRIPT_BYTES).await?.entries;
    let bytes: usize = entries.iter().map(|entry| entry.0.len()).sum();
    if entries.len() > MAX_TRANSCRIPT_ENTRIES || bytes >= MAX_TRANSCRIPT_BYTES {
        return Err(ApiError::BundleTooLong);
    }
    Ok(Some(entries))
}

/// How many entries the log had when it was measured.
fn measured_size(baseline: &[u8]) -> Result<u64, ApiError> {
    let baseline = ::ledger::Baseline::decode(baseline);
    Ok(baseline.map_err(|source| ApiError::LedgerFailed(LedgerError::Baseline(source)))?.checkpoint.size)
}
