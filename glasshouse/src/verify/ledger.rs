//! What the ledger proves, for the checkpoint in the binding statement: files, histories, what was spoken to, growth.

mod note;
mod reach;
mod rest;
mod show;
mod watched;

use ::ledger::{Anchor, Baseline, Checkpoint, Content, FileNow, Hash, NoteKey, State};
use attestation::{
    Sha256,
    binding::{self, Statement},
    bundle::{Bundle, Consistency, Name, Proof, ProofKind},
};
use manifest::Measured;
use serde::Serialize;

use super::{
    chain,
    checkpoint::{Kept, Since},
    digests::Wanted,
    verdict::Verdict,
};
use crate::evidence::Asked;
use reach::allowed;
pub(crate) use show::FileClaim;
use show::claim;
pub(in crate::verify) use watched::watched;

/// The stream that the way out writes.
const EGRESS: &str = "egress";

/// What is asked of the ledger.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// Files that have to be there, with what they have to hold.
    pub(crate) files: Vec<(Name, Option<Wanted>)>,
    /// Paths at which nothing may be.
    pub(crate) absent: Vec<Name>,
    /// Files whose records are wanted, all of them.
    pub(crate) histories: Vec<Name>,
    /// All that may have been spoken to.
    pub(crate) egress_only: Option<Vec<egress::Rule>>,
    /// The ledger as it was known before.
    pub(crate) since: Option<Since>,
}

/// The ledger, as an attested document states it.
#[derive(Debug, Serialize)]
pub(crate) struct LedgerClaims {
    pub(crate) size: u64,
    pub(crate) log_root: Sha256,
    pub(crate) map_root: Sha256,
    pub(crate) vrf_key: Sha256,
    /// Entries at boot, before anything of the application ran; absent where that is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_boot: Option<u64>,
    /// The key that signs its notes, as other tools take it; absent where `at_boot` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note_key: Option<String>,
}

impl Questions {
    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
            && self.absent.is_empty()
            && self.histories.is_empty()
            && self.egress_only.is_none()
            && self.since.is_none()
    }

    /// What a server has to be asked for, to answer them.
    pub(crate) fn asked(&self) -> Asked {
        let files = self.files.iter().map(|(path, _)| path).chain(&self.absent).cloned();
        Asked {
            files: files.collect(),
            histories: self.histories.clone(),
            streams: self.egress_only.iter().map(|_| Name(EGRESS.into())).collect(),
            since: self.since.as_ref().map(Since::size),
        }
    }
}

/// What is known when the ledger's turn comes.
pub(crate) struct Known<'a> {
    pub(crate) bundle: Option<&'a Bundle>,
    /// `user_data` of the genuine document.
    pub(crate) user_data: Option<&'a [u8]>,
    /// The manifest whose digest is in PCR16.
    pub(crate) manifest: Option<&'a Measured>,
    /// The baseline whose digest is in PCR16.
    pub(crate) baseline: Option<&'a [u8]>,
}

/// Answers `questions`, with a row for each.
pub(crate) fn judge(known: &Known<'_>, questions: &Questions, verdict: &mut Verdict) {
    let statement = known.user_data.and_then(|bytes| Statement::decode(bytes).ok());
    let Some(stated) = statement.as_ref().and_then(Statement::ledger) else {
        return without_ledger(known, questions, verdict);
    };
    let checkpoint =
        Checkpoint { size: stated.size, log_root: hash(stated.log_root), map_root: hash(stated.map_root) };
    verdict.ledger = Some(LedgerClaims {
        size: stated.size,
        log_root: stated.log_root,
        map_root: stated.map_root,
        vrf_key: Sha256(stated.vrf_key),
        at_boot: None,
        note_key: None,
    });
    let anchor = match Anchor::new(checkpoint, &stated.vrf_key) {
        Ok(anchor) => anchor,
        Err(error) => return verdict.fail("ledger", "a VRF public key", error.to_string()),
    };
    let mut judge = Judge { known, stated, anchor, verdict };
    judge.since_boot();
    match &questions.since {
        None => {}
        Some(Since::Kept(kept)) => judge.since(kept, "the checkpoint that you kept"),
        Some(Since::Note(note)) => judge.since_note(note),
    }
    questions.files.iter().for_each(|(path, wanted)| judge.file(path, wanted.as_ref()));
    questions.absent.iter().for_each(|path| judge.absent(path));
    questions.histories.iter().for_each(|path| judge.history(path));
    if let Some(only) = &questions.egress_only {
        allowed(known, only, judge.verdict);
        judge.spoken_to(only);
    }
    judge.rest(questions);
}

fn without_ledger(known: &Known<'_>, questions: &Questions, verdict: &mut Verdict) {
    let Questions { files, absent, histories, egress_only, since } = questions;
    if !files.is_empty() || !absent.is_empty() || !histories.is_empty() || since.is_some() {
        verdict.fail("ledger", "a ledger in the binding statement", "none: the image has no [monitor]");
    }
    if known.bundle.is_some_and(|bundle| !bundle.proofs.is_empty()) {
        verdict.fail("proofs", "a ledger in the binding statement", "none, and proofs of one");
    }
    if let Some(only) = egress_only {
        allowed(known, only, verdict);
        verdict.leave("connections made", "the enclave keeps no ledger of them");
    }
}

/// The row for what was known before.
const SINCE_CHECK: &str = "ledger since the checkpoint";

struct Judge<'a> {
    known: &'a Known<'a>,
    stated: &'a binding::Ledger,
    anchor: Anchor,
    verdict: &'a mut Verdict,
}

impl Judge<'_> {
    fn proof(&self, kind: ProofKind, subject: &Name) -> Result<&[u8], String> {
        let proofs = self.known.bundle.map(|bundle| bundle.proofs.as_slice()).unwrap_or_default();
        let is = |proof: &&Proof| proof.kind == kind && proof.subject == *subject;
        let found = proofs.iter().find(is).map(|proof| proof.proof.0.as_slice());
        found.ok_or_else(|| "no proof of it".to_owned())
    }

    /// Whether the log that had `root` at `size` is the beginning of the one stated.
    fn grew_from(&self, size: u64, root: &Hash) -> Result<(), String> {
        let checkpoint = self.anchor.checkpoint();
        let proofs = self.known.bundle.map(|bundle| bundle.consistency.as_slice()).unwrap_or_default();
        let is = |proof: &&Consistency| proof.from == size && proof.to == checkpoint.size;
        let hashes: Vec<_> = match proofs.iter().find(is) {
            Some(proof) => proof.hashes.iter().map(|sha256| hash(*sha256)).collect(),
            None if size == checkpoint.size || size == 0 => Vec::new(),
            None => return Err(format!("no proof from {size} to {} entries", checkpoint.size)),
        };
        ::ledger::log::verify_consistency(size, root, checkpoint.size, &checkpoint.log_root, &hashes)
            .map_err(|error| error.to_string())
    }

    /// The baseline is in PCR16 since before anything of the application ran.
    fn since_boot(&mut self) {
        const CHECK: &str = "ledger since boot";
        let Some(bytes) = self.known.baseline else {
            return self.verdict.leave(CHECK, "no baseline whose digest is in PCR16");
        };
        let baseline = match Baseline::decode(bytes) {
            Ok(baseline) => baseline,
            Err(error) => return self.verdict.fail(CHECK, "a baseline", error.to_string()),
        };
        if baseline.vrf_key != self.stated.vrf_key {
            return self.verdict.fail(
                CHECK,
                "the ledger of the baseline",
                "another one, with another VRF key",
            );
        }
        let (at_boot, now) = (baseline.checkpoint.size, self.stated.size);
        match self.grew_from(at_boot, &baseline.checkpoint.log_root) {
            Err(found) => {
                self.verdict.fail(CHECK, format!("the {at_boot} entries at boot to be its first"), found)
            }
            Ok(()) => {
                self.verdict.pass(CHECK, format!("{at_boot} entries at boot, {now} now"));
                if let Some(claims) = &mut self.verdict.ledger {
                    claims.at_boot = Some(at_boot);
                    claims.note_key = note_key(&baseline).map(|key| key.verifier_text());
                }
                self.verdict.proven("the ledger has kept everything since before the application started");
            }
        }
    }

    fn since(&mut self, kept: &Kept, what: &str) {
        let expected = format!("the {} entries known to be its first", kept.size);
        if kept.vrf_key.0 != self.stated.vrf_key {
            let found = "another ledger: the enclave was started again, or is another one";
            return self.verdict.fail(SINCE_CHECK, expected, found);
        }
        if kept.size > self.stated.size {
            return self.verdict.fail(
                SINCE_CHECK,
                expected,
                format!("a log of {} entries", self.stated.size),
            );
        }
        if kept.size == self.stated.size && kept.map_root != self.stated.map_root {
            return self.verdict.fail(SINCE_CHECK, expected, "the same log with another map");
        }
        match self.grew_from(kept.size, &hash(kept.log_root)) {
            Err(found) => self.verdict.fail(SINCE_CHECK, expected, found),
            Ok(()) => {
                let new = self.stated.size - kept.size;
                self.verdict.pass(SINCE_CHECK, format!("{} entries known, {new} new", kept.size));
                self.verdict.proven(format!("the ledger only grew since {what}"));
            }
        }
    }

    fn now(&self, path: &Name) -> Result<FileNow, String> {
        let proof = self.proof(ProofKind::File, path)?;
        self.anchor.verify_file(&path.0, proof).map_err(|error| chain(&error))
    }

    fn file(&mut self, path: &Name, wanted: Option<&Wanted>) {
        let check = format!("file {path}");
        let expected = wanted.map_or_else(|| "a record of it".to_owned(), ToString::to_string);
        let seen = match self.now(path) {
            Ok(FileNow::Recorded(seen)) => seen,
            Ok(FileNow::Never) => {
                return self.verdict.fail(check, expected, "nothing was ever recorded there");
            }
            Err(found) => return self.verdict.fail(check, expected, found),
        };
        let claim = claim(path, &seen);
        let found = claim.state.clone();
        self.verdict.files.push(claim);
        let State::Present(_, content) = &seen.record.state else {
            return self.verdict.fail(check, expected, found);
        };
        let matching = match (wanted, content) {
            (None, _) => Some(None),
            (Some(wanted), Content::File { digests, .. }) => wanted.matching(digests).map(Some),
            (Some(_), _) => None,
        };
        match matching {
            None => self.verdict.fail(check, expected, found),
            Some(None) => {
                self.verdict.proven(format!("{path} is {found}, as it was last recorded"));
                self.verdict.pass(check, found);
            }
            Some(Some(algorithm)) => {
                let sentence =
                    format!("{path} holds what you expect ({}), as it was last recorded", algorithm.name());
                self.verdict.proven(sentence);
                self.verdict.pass(check, found);
            }
        }
    }

    fn absent(&mut self, path: &Name) {
        let check = format!("absent {path}");
        if let Err(found) = watched(self.known.manifest, path) {
            return self.verdict.fail(check, "a path that is watched", found);
        }
        match self.now(path) {
            Ok(FileNow::Never) => {
                self.verdict.pass(check, "nothing was ever recorded there");
                self.verdict.proven(format!("{path} is not there, and never was since boot"));
            }
            Ok(FileNow::Recorded(seen)) => {
                let claim = claim(path, &seen);
                let found = claim.state.clone();
                let is_removed = seen.record.state == State::Removed;
                self.verdict.files.push(claim);
                match is_removed {
                    true => {
                        self.verdict.proven(format!("{path} is not there any more, as was last recorded"));
                        self.verdict.pass(check, "removed: --history tells what it was");
                    }
                    false => self.verdict.fail(check, "nothing there", found),
                }
            }
            Err(found) => self.verdict.fail(check, "nothing there", found),
        }
    }

    fn history(&mut self, path: &Name) {
        let check = format!("history {path}");
        let verified = self
            .proof(ProofKind::History, path)
            .and_then(|proof| self.anchor.verify_history(&path.0, proof).map_err(|error| chain(&error)));
        match verified {
            Err(found) => self.verdict.fail(check, "all its records", found),
            Ok(seen) => {
                self.verdict.pass(check, format!("{} records, complete", seen.len()));
                self.verdict.proven(format!("{} records are all that there is of {path}", seen.len()));
                self.verdict.histories.extend(seen.iter().map(|seen| claim(path, seen)));
            }
        }
    }
}

/// The key that signs the notes of the ledger that had this baseline.
fn note_key(baseline: &Baseline) -> Option<NoteKey> {
    NoteKey::new(&baseline.origin(), &baseline.ledger_key).ok()
}

fn hash(sha256: Sha256) -> Hash {
    Hash(sha256.0)
}
