//! The proofs of a bundle that nobody asked about: a file that somebody made has to be right as a whole.

use attestation::bundle::{Proof, ProofKind};

use super::{EGRESS, Judge, Questions, claim};
use crate::verify::chain;

impl Judge<'_> {
    /// Verifies what the questions have not: other subjects, and second proofs of the same.
    pub(super) fn rest(&mut self, questions: &Questions) {
        let mut answered: Vec<(ProofKind, &[u8])> = Vec::new();
        for proof in self.known.bundle.map(|bundle| bundle.proofs.as_slice()).unwrap_or_default() {
            let subject = (proof.kind, proof.subject.0.as_slice());
            // A question takes the first proof of its subject.
            if !answered.contains(&subject) && is_asked(questions, proof) {
                answered.push(subject);
                continue;
            }
            let check = format!("{} {}", word(proof.kind), proof.subject);
            match self.unasked(proof) {
                Ok(found) => self.verdict.pass(check, found),
                Err(found) => self.verdict.fail(check, "a proof of it", found),
            }
        }
    }

    fn unasked(&mut self, Proof { kind, subject, proof }: &Proof) -> Result<String, String> {
        match kind {
            ProofKind::File => {
                let now = self.anchor.verify_file(&subject.0, &proof.0).map_err(|error| chain(&error))?;
                let ::ledger::FileNow::Recorded(seen) = now else {
                    return Ok("nothing was ever recorded there".to_owned());
                };
                let claim = claim(subject, &seen);
                let found = claim.state.clone();
                self.verdict.files.push(claim);
                Ok(found)
            }
            ProofKind::History => {
                let seen = self.anchor.verify_history(&subject.0, &proof.0).map_err(|error| chain(&error))?;
                self.verdict.histories.extend(seen.iter().map(|seen| claim(subject, seen)));
                Ok(format!("{} records, complete", seen.len()))
            }
            ProofKind::Stream => {
                let name = str::from_utf8(&subject.0).ok().and_then(|name| name.parse().ok());
                let name = name.ok_or("no name of a stream")?;
                let stream = self.anchor.verify_stream(&name, &proof.0).map_err(|error| chain(&error))?;
                Ok(format!("{} of {} entries", stream.entries.len(), stream.count))
            }
        }
    }
}

fn is_asked(questions: &Questions, proof: &Proof) -> bool {
    let subject = &proof.subject;
    match proof.kind {
        ProofKind::File => {
            questions.files.iter().map(|(path, _)| path).chain(&questions.absent).any(|path| path == subject)
        }
        ProofKind::History => questions.histories.contains(subject),
        ProofKind::Stream => questions.egress_only.is_some() && subject.0 == EGRESS.as_bytes(),
    }
}

fn word(kind: ProofKind) -> &'static str {
    match kind {
        ProofKind::File => "file",
        ProofKind::History => "history",
        ProofKind::Stream => "stream",
    }
}
