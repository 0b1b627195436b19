//! Follows an agent's log from its first entry to its last, and holds it against what the enclave's ledger remembers
//! (`docs/spec/tee-log.md#verification`).

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use attestation::{Verified, binding::Statement};
use base64::{Engine, engine::general_purpose::STANDARD};
use ledger::{Checkpoint, Hash, StreamName, StreamPayload};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tee_agent::{anchoring::STREAM, server::ANCHORS_STATEMENT};
use tee_log::{Agent, Anchor, Page, SignedEntry, Verifier, anchors, key_statement, reply_statement};

use crate::client::{Whom, ask, draw_nonce};

/// Entries asked for at a time.
const PAGE_SIZE: usize = 1000;
/// Most of such pages: ten times what an agent keeps.
const MAX_PAGES: u64 = 1000;

#[derive(Deserialize)]
struct Anchored {
    attestation: String,
    proof: Option<String>,
}

#[derive(Deserialize)]
struct Agents {
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
struct Logs {
    logs: Box<RawValue>,
    attestation: Option<String>,
}

/// Verifies the log of an agent that was verified itself; says what it found.
pub(crate) fn audit(whom: &Whom) -> anyhow::Result<String> {
    // Before the entries, so that none of what is remembered can be newer than they are.
    let remembered = remembered(whom)?;
    let known = remembered.as_ref().map(|(anchors, _)| anchors.clone()).unwrap_or_default();
    let mut verifier = Verifier::with_anchors(known);
    follow(whom, &mut verifier)?;
    verifier.shows_all_anchored().context("REFUSED: the log")?;
    check_lives(whom, &verifier)?;
    let (entries, lives) = (verifier.position().sequence, verifier.lives());
    let cut = lives.iter().rev().skip(1).filter(|life| !life.closed).count();
    let ledger = match remembered {
        Some((anchors, times)) => format!(
            "the ledger remembers it up to entry {} ({times} anchors)",
            anchors.last().map_or(0, |anchor| anchor.position.sequence)
        ),
        None => {
            "this image keeps no ledger: whether the log was put back, only who remembers its end can tell"
                .to_owned()
        }
    };
    let starts = lives.len();
    Ok(format!(
        "log of {entries} entries, {starts} starts, of which {cut} ended without a last entry\n{ledger}"
    ))
}

/// What the ledger remembers, and how many times it was told; none in an image that keeps no ledger.
fn remembered(whom: &Whom) -> anyhow::Result<Option<(Vec<Anchor>, u64)>> {
    let nonce = draw_nonce()?;
    let path = format!("/tee/anchors?nonce={}", hex::encode(nonce));
    let answer: Anchored = ask(&whom.path(&path), None)?;
    let (verified, _) = whom.appraised(&answer.attestation, Some(&nonce), ANCHORS_STATEMENT.into())?;
    let statement = Statement::decode(verified.user_data().unwrap_or_default())?;
    let Some(ledger) = statement.ledger() else { return Ok(None) };
    let checkpoint = Checkpoint {
        size: ledger.size,
        log_root: Hash(ledger.log_root.0),
        map_root: Hash(ledger.map_root.0),
    };
    let proof = answer.proof.context("REFUSED: the agent does not show what the ledger remembers")?;
    let proof = STANDARD.decode(proof).context("the proof is not base64")?;
    let stream = format!("app/{STREAM}").parse::<StreamName>()?;
    let end = ledger::Anchor::new(checkpoint, &ledger.vrf_key)?
        .verify_stream(&stream, &proof)
        .context("REFUSED: what the ledger remembers is not shown")?;
    ensure!(end.is_complete(), "REFUSED: the agent shows a part of what the ledger remembers");
    ensure!(end.count > 0, "REFUSED: the image keeps a ledger, and the log is not in it");
    let payloads = end.entries.iter().map(|entry| match &entry.payload {
        StreamPayload::Bytes(bytes) => bytes.as_slice(),
        StreamPayload::Gap(_) => &[],
    });
    Ok(Some((anchors(payloads).context("REFUSED: what the ledger remembers")?, end.count)))
}

/// Takes all entries, page by page, each attested.
fn follow(whom: &Whom, verifier: &mut Verifier) -> anyhow::Result<()> {
    for number in 1..=MAX_PAGES {
        let page = page(whom, number)?;
        for row in &page.data {
            let signed = SignedEntry::try_from(row).context("REFUSED: an entry of the log")?;
            verifier.push(&signed).context("REFUSED: the log")?;
        }
        if page.data.len() < PAGE_SIZE {
            ensure!(page.total == verifier.position().sequence, "REFUSED: the log shows less than it has");
            return Ok(());
        }
    }
    bail!("REFUSED: the log has no end within {MAX_PAGES} pages")
}

fn page(whom: &Whom, number: u64) -> anyhow::Result<Page> {
    let nonce = draw_nonce()?;
    let path = format!("/tee/logs?nonce={}", hex::encode(nonce));
    let answer: Logs =
        ask(&whom.path(&path), Some(json!({"page": number, "pageSize": PAGE_SIZE}).to_string()))?;
    let document = answer.attestation.context("the log is not attested")?;
    whom.appraised(&document, Some(&nonce), reply_statement(answer.logs.get()))?;
    serde_json::from_str(answer.logs.get()).context("the log is not what was specified")
}

/// Each start's key was made in the image that is expected, for the place where it took the log over.
fn check_lives(whom: &Whom, verifier: &Verifier) -> anyhow::Result<()> {
    let Agents { agents } = ask(&whom.path("/tee/agents"), None)?;
    let agents: BTreeMap<_, _> = agents.iter().map(|agent| (&*agent.public_key, agent)).collect();
    for life in verifier.lives() {
        let key = life.key.to_string();
        let agent = agents.get(&*key).with_context(|| format!("REFUSED: nobody attests the key {key}"))?;
        let (verified, _): (Verified, _) = whom
            .appraised(&agent.attestation, None, key_statement(&life.opened))
            .with_context(|| format!("the log's key {key}"))?;
        ensure!(verified.public_key() == Some(&life.key.0), "REFUSED: another key than {key} is attested");
    }
    Ok(())
}
