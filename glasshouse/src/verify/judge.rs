//! Judges evidence: the steps of `docs/spec/attestation.md`, each with a row of the verdict. Reads no file and no clock.

use attestation::{
    Appraisal, BindingPolicy, Check, ControlPolicy, ControlState, Document, Pcr, PcrIndex, Policy,
    ReferenceValues, Refused, Roots, Subject, TrustedRoot, UnixTime, Verified, VerifyError, appraise,
    binding::Statement, bundle::Bundle, framework_pcr, verify,
};
use expected::{has_monitor, names_an_image};
use manifest::Measured;

use super::{
    Question, chain, control,
    gather::{Material, Source},
    hint,
    ledger::{self, Known},
    verdict::{Claims, Finding, Verdict},
};

/// The answer.
pub(crate) fn judge(material: &Material, question: &Question) -> Verdict {
    let roots = &question.expected.roots;
    let mut verdict = Verdict { subject: material.subject.clone(), ..Verdict::default() };
    let genuine = time(material).and_then(|at| Ok((at, verify(&material.document, roots, at)?)));
    let (at, verified) = match genuine {
        Ok(genuine) => genuine,
        Err(error) => {
            verdict.hints.extend(hint::on_verification(&error, roots, material.source).map(str::to_owned));
            return not_genuine(verdict, question, &error);
        }
    };
    verdict.pass("signature and certificates", format!("valid at {at}"));
    verdict.simulated = verified.root() != TrustedRoot::Aws;
    verdict.debug = verified.is_debug();
    verdict.claims = Some(Claims::of(&verified));
    Judge { material, question, verified, verdict }.finish()
}

/// A time that nobody noted is the document's own: then it says when it was valid, not when it was made.
fn time(material: &Material) -> Result<UnixTime, VerifyError> {
    match material.at {
        Some(at) => Ok(at),
        None => Ok(UnixTime::from_millis(Document::decode(&material.document)?.timestamp_ms)),
    }
}

/// A document that is not genuine says nothing, so nothing else of it is looked at.
fn not_genuine(mut verdict: Verdict, question: &Question, error: &VerifyError) -> Verdict {
    let reason = chain(error);
    verdict.simulated = !is_aws_trusted(&question.expected.roots);
    verdict.any_image = question.any_image();
    verdict.image_compared = match &question.expected.reference_values {
        ReferenceValues::Pcrs(registers) => names_an_image(registers) || question.policy.is_some(),
        ReferenceValues::AnyImage => false,
    };
    verdict.refusals = vec![reason.clone()];
    verdict.checks = vec![Finding {
        check: "signature and certificates".to_owned(),
        status: "failed".to_owned(),
        expected: None,
        found: Some(reason),
    }];
    verdict
}

fn is_aws_trusted(roots: &Roots) -> bool {
    roots.iter().any(|root| root == TrustedRoot::Aws)
}

impl Question {
    fn any_image(&self) -> bool {
        self.expected.reference_values == ReferenceValues::AnyImage
    }
}

/// A genuine document on its way to a verdict.
struct Judge<'a> {
    material: &'a Material,
    question: &'a Question,
    verified: Verified,
    verdict: Verdict,
}

impl Judge<'_> {
    fn finish(mut self) -> Verdict {
        self.freshness();
        self.appraise();
        self.verdict.proven = self.origin();
        let manifest = self.manifest();
        self.policy(manifest.as_deref());
        // What is in PCR16 is, even with a manifest of which this version cannot read every member.
        let is_watched = manifest.as_deref().is_some_and(has_monitor);
        let manifest = manifest.and_then(|bytes| Measured::from_canonical_json(&bytes).ok());
        self.ledger(manifest.as_ref(), is_watched);
        self.transcript();
        self.conclude(manifest);
        self.verdict
    }

    fn bundle(&self) -> Option<&Bundle> {
        self.material.bundle.as_ref()
    }

    /// What makes old evidence old is a nonce and a time that this side knows to be its own.
    fn freshness(&mut self) {
        if self.material.at.is_none() {
            let found = "the document's own: --at gives one that you noted";
            self.verdict.leave("time", found);
            self.verdict.not_proven("when the document was made: only it says so, since you gave no --at");
        }
        if self.material.source == Source::Bundle && self.material.own_nonce.is_none() {
            self.verdict.leave("freshness", "the bundle's own nonce: --nonce gives one that you drew");
            self.verdict.not_proven("that the document answers you: the nonce is whose who made the bundle");
        }
    }

    /// The nonce that the document has to carry: the verifier's, or the root of the batch that has it.
    fn nonce(&mut self) -> Option<Vec<u8>> {
        let own = self.material.own_nonce.clone();
        let nonce = own.or_else(|| self.bundle().map(|bundle| bundle.nonce.0.clone()))?;
        match self.bundle().and_then(|bundle| bundle.batch.as_ref()).map(|path| path.root(&nonce)) {
            None => Some(nonce),
            Some(Ok(root)) => Some(root.0.to_vec()),
            Some(Err(error)) => {
                self.verdict.fail("nonce", "a place in a batch", error.to_string());
                None
            }
        }
    }

    fn appraise(&mut self) {
        let reference_values = self.reference_values();
        self.verdict.any_image = reference_values == ReferenceValues::AnyImage;
        if let ReferenceValues::Pcrs(registers) = &reference_values {
            self.verdict.image_compared = names_an_image(registers);
        }
        let policy = Policy {
            nonce: self.nonce(),
            binding: self.binding(),
            control: self.question.control,
            allow_debug: self.question.expected.allow_debug,
            ..Policy::new(reference_values)
        };
        let (checks, refusals) = match appraise(&self.verified, &policy) {
            Ok(Appraisal { checks, .. }) => (checks, Vec::new()),
            Err(Refused { refusals, checks }) => (checks, refusals),
        };
        self.verdict.refusals.extend(refusals.iter().map(ToString::to_string));
        for hint in refusals.iter().filter_map(hint::on_appraisal) {
            if !self.verdict.hints.iter().any(|other| other == hint) {
                self.verdict.hints.push(hint.to_owned());
            }
        }
        let is_bundle = self.material.source == Source::Bundle;
        let stated = self.verified.user_data().and_then(|bytes| Statement::decode(bytes).ok());
        let rows = checks.into_iter().map(|check| row(check, is_bundle));
        self.verdict
            .checks
            .extend(rows.map(|row| if stated.is_some() { row } else { of_another_maker(row) }));
    }

    /// What was given, and what the policy makes of the registers found.
    fn reference_values(&self) -> ReferenceValues {
        match (&self.question.expected.reference_values, &self.question.policy) {
            (ReferenceValues::Pcrs(given), Some(policy)) => {
                let mut registers = policy.reference_values(self.verified.pcrs());
                registers.extend(given);
                ReferenceValues::Pcrs(registers)
            }
            (given, _) => given.clone(),
        }
    }

    fn binding(&self) -> BindingPolicy {
        let stated = || self.bundle()?.tls_key.as_ref().map(|key| attestation::Sha256::of(&key.0));
        match self.material.source {
            Source::Connection(tls_key) | Source::Certificate(tls_key) => BindingPolicy::Server { tls_key },
            Source::Bundle => match stated() {
                Some(tls_key) => BindingPolicy::Server { tls_key },
                None => BindingPolicy::AnyServer,
            },
            Source::Document => BindingPolicy::Unchecked,
        }
    }

    /// The measured manifest, if there is one whose digest is in PCR16.
    fn manifest(&mut self) -> Option<Vec<u8>> {
        const CHECK: &str = "measured manifest";
        let shown =
            self.bundle().and_then(|bundle| bundle.manifest.as_ref()).map(|manifest| manifest.0.clone());
        let manifest = self.question.expected.manifest.clone().or(shown)?;
        let baseline =
            self.bundle().and_then(|bundle| bundle.baseline.as_ref()).map(|baseline| baseline.0.clone());
        let digest = Pcr(sha384(&manifest));
        if let Some(wanted) = self.question.expected.manifest_sha384.filter(|wanted| *wanted != digest) {
            self.verdict.fail(CHECK, format!("SHA-384 {wanted}"), digest.to_string());
            return None;
        }
        let watched = has_monitor(&manifest);
        if watched && baseline.is_none() {
            let found = "no baseline of the files, which is in PCR16 too";
            match self.material.source {
                Source::Document | Source::Certificate(_) => self.verdict.leave(CHECK, found),
                Source::Bundle | Source::Connection(_) => {
                    self.verdict.fail(CHECK, "a baseline of the files", found)
                }
            }
            return None;
        }
        let expected = framework_pcr(&manifest, baseline.as_deref().filter(|_| watched));
        match self.verified.pcr(PcrIndex::FRAMEWORK) {
            Some(found) if found == expected => {
                let found = if watched { "it and the baseline are in PCR16" } else { "it is in PCR16" };
                self.verdict.pass(CHECK, found);
                Some(manifest)
            }
            found => {
                let found = found.map_or_else(|| "none (not locked)".to_owned(), |found| found.to_string());
                self.verdict.fail(CHECK, format!("PCR16 {expected}"), found);
                None
            }
        }
    }

    fn policy(&mut self, manifest: Option<&[u8]>) {
        let Some(policy) = &self.question.policy else { return };
        for finding in policy.judge(&self.verified, manifest) {
            let check = finding.rule.to_string();
            match finding.met {
                true => self.verdict.pass(check, finding.found),
                false => self.verdict.fail(check, finding.expected, finding.found),
            }
        }
    }

    fn ledger(&mut self, manifest: Option<&Measured>, is_watched: bool) {
        let bundle = self.material.bundle.as_ref();
        let known = Known {
            bundle,
            user_data: self.verified.user_data(),
            manifest,
            // Only together with the manifest is it known to be in PCR16.
            baseline: bundle
                .filter(|_| is_watched)
                .and_then(|bundle| bundle.baseline.as_ref())
                .map(|baseline| baseline.0.as_slice()),
        };
        if bundle.is_some() || !self.question.ledger.is_empty() {
            ledger::judge(&known, &self.question.ledger, &mut self.verdict);
        }
    }

    fn transcript(&mut self) {
        let transcript = self.material.bundle.as_ref().and_then(|bundle| bundle.transcript.as_deref());
        let statement = self.verified.user_data().and_then(|bytes| Statement::decode(bytes).ok());
        let head = statement.as_ref().and_then(Statement::control_head);
        if let Some(transcript) = transcript {
            control::judge(head, self.verified.pcr(PcrIndex::CONTROL), transcript, &mut self.verdict);
        }
    }

    /// What the document proves by itself, should nothing be refused.
    fn origin(&mut self) -> Vec<String> {
        let who = match self.verified.root() {
            TrustedRoot::Aws => "AWS's Nitro hypervisor",
            TrustedRoot::Custom { .. } => "a module under the root that you passed",
        };
        let mut proven = vec![format!("{who} signed this document for an enclave")];
        if self.verdict.image_compared {
            proven.push("the enclave runs the image that you expect".to_owned());
        } else {
            self.verdict.not_proven("which program runs: no image was compared");
        }
        match (self.material.source, &self.material.own_nonce) {
            (Source::Connection(_), _) => {
                proven.push("the document was made for this request".to_owned());
                proven.push(
                    "what you send on this connection ends in that enclave: it holds the TLS key".to_owned(),
                );
            }
            (Source::Certificate(_), _) => {
                let ends = "what is sent to a server that proves to hold this certificate's key ends in that enclave";
                proven.push(ends.to_owned());
                self.verdict
                    .not_proven("how the enclave is now: a certificate's document answers nobody's nonce");
            }
            (_, Some(_)) => proven.push("the document was made after you drew the nonce".to_owned()),
            (Source::Document, None) => {
                self.verdict.not_proven("that the document is fresh: you gave no --nonce")
            }
            (Source::Bundle, None) => {}
        }
        match (ControlState::of(&self.verified), self.question.control) {
            (_, ControlPolicy::Unchecked) => {}
            (ControlState::Sealed, _) => {
                proven.push("nobody has entered the enclave, and nobody can any more".to_owned())
            }
            _ => proven.push("nobody had entered the enclave when the document was made".to_owned()),
        }
        proven
    }

    /// Sentences about what is proven are for good verdicts.
    fn conclude(&mut self, manifest: Option<Measured>) {
        self.verdict.operators =
            manifest.map(|manifest| manifest.control.map_or_else(Vec::new, |control| control.operators));
        self.verdict.verified = self.verdict.refusals.is_empty();
        if !self.verdict.verified {
            self.verdict.proven.clear();
        }
    }
}
fn sha384(bytes: &[u8]) -> [u8; 48] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, bytes);
    digest.as_ref().try_into().expect("SHA-384 has 48 bytes")
}

/// Without a binding statement nothing says that the document is one of this framework's.
fn of_another_maker(mut row: Finding) -> Finding {
    let is = |subject: Subject| row.check == subject.to_string() && row.status == "unchecked";
    if is(Subject::Binding) {
        row.found = Some("none: what the document carries, only the image's maker knows".to_owned());
    } else if let (true, Some(found)) = (is(Subject::Control), &mut row.found) {
        found.push_str(": so it is in images of Glasshouse, and nothing says that this is one");
    }
    row
}

/// A check as a row. The key of a bundle is what the enclave says it is, and nobody's connection.
fn row(check: Check, is_bundle: bool) -> Finding {
    let stated = is_bundle && check.subject == Subject::TlsKey;
    let mut finding = Finding::from(check);
    if stated {
        finding.found =
            finding.found.map(|found| format!("{found} (the enclave's; nobody's connection is judged)"));
    }
    finding
}
