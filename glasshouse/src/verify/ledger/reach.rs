//! Whom an enclave may speak to by its manifest, and to whom it did by its ledger.

use ::ledger::{StreamName, StreamPayload};
use attestation::bundle::{Name, ProofKind};
use egress::{Destination, Outcome, Policy};

use super::{EGRESS, Judge, Known};
use crate::verify::{chain, verdict::Verdict};

/// What the measured manifest lets out, compared with what may be spoken to.
pub(super) fn allowed(known: &Known<'_>, only: &[egress::Rule], verdict: &mut Verdict) {
    const CHECK: &str = "egress allowed";
    let list = |rules: &[egress::Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let expected = format!("at most {}", if only.is_empty() { "nothing".to_owned() } else { list(only) });
    let Some(manifest) = known.manifest else {
        return verdict.fail(CHECK, expected, "no manifest whose digest is in PCR16");
    };
    let allow = manifest.egress.as_ref().map(|egress| egress.allow.as_slice()).unwrap_or_default();
    let beyond: Vec<_> =
        allow.iter().filter(|rule| !only.iter().any(|own| own.covers(rule))).cloned().collect();
    match (allow.is_empty(), beyond.is_empty()) {
        (true, _) => {
            verdict.pass(CHECK, "the image has no way out");
            verdict.proven("the enclave cannot speak to anybody of its own accord: its image has no way out");
        }
        (false, true) => {
            verdict.pass(CHECK, list(allow));
            verdict.proven(format!("the enclave can speak to nobody but {}", list(allow)));
        }
        (false, false) => verdict.fail(CHECK, expected, format!("also {}", list(&beyond))),
    }
}

impl Judge<'_> {
    /// The complete record of connections, where the ledger has one.
    pub(super) fn spoken_to(&mut self, only: &[egress::Rule]) {
        const CHECK: &str = "connections made";
        let name: StreamName = EGRESS.parse().expect("the name of a stream");
        let stream = self
            .proof(ProofKind::Stream, &Name(EGRESS.into()))
            .and_then(|proof| self.anchor.verify_stream(&name, proof).map_err(|error| chain(&error)));
        let stream = match stream {
            Err(found) => return self.verdict.fail(CHECK, "the complete record of them", found),
            Ok(stream) if !stream.is_complete() => {
                let found = format!("{} of {} entries", stream.entries.len(), stream.count);
                return self.verdict.fail(CHECK, "the complete record of them", found);
            }
            Ok(stream) => stream,
        };
        let policy = Policy::compile(only, &[], &[]).map(Policy::trusting_classes);
        let Ok(policy) = policy else { return self.verdict.fail(CHECK, "fewer rules", "too many") };
        let mut others = Vec::new();
        for entry in &stream.entries {
            let StreamPayload::Bytes(bytes) = &entry.payload else { continue };
            match egress::Record::from_cbor(bytes) {
                Err(error) => return self.verdict.fail(CHECK, "records of connections", error.to_string()),
                Ok(record) if is_permitted(&policy, &record) => {}
                Ok(record) => others.push(record.to_json()),
            }
        }
        match others.first() {
            Some(first) => {
                let found = format!("{} to others, the first: {first}", others.len());
                self.verdict.fail(CHECK, "none but to those", found);
            }
            None => {
                self.verdict.pass(CHECK, format!("{} in the ledger, none to others", stream.count));
                if stream.count > 0 {
                    self.verdict.proven("every connection that the ledger has went to one of those");
                }
            }
        }
    }
}

/// Whether a connection stayed within the enclave, or went to whom it may.
fn is_permitted(policy: &Policy, record: &egress::Record) -> bool {
    let destination = match (&record.name, record.address) {
        (Some(name), Some(address)) => Destination::Resolved(name.clone(), address),
        (Some(name), None) => Destination::Name(name.clone()),
        (None, Some(address)) => Destination::Address(address),
        (None, None) => return false,
    };
    record.outcome == Outcome::Denied
        || policy.evaluate(&destination, record.port, record.protocol).is_allowed()
}
