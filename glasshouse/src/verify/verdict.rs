//! What `glasshouse verify` answers, for people and as JSON.

use std::{collections::BTreeMap, fmt};

use attestation::{Check, Pcr, Verified};
use manifest::Operator;
use serde::Serialize;

use super::{
    control::SessionClaim,
    ledger::{FileClaim, LedgerClaims},
};
use crate::table::Table;

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// The URL or file.
    pub(crate) subject: String,
    /// Whether every check the caller asked for passed.
    pub(crate) verified: bool,
    /// The evidence was signed under a root that the caller passed, not by AWS's hypervisor.
    pub(crate) simulated: bool,
    /// The caller asked only whether the evidence is genuine, whatever the image.
    pub(crate) any_image: bool,
    /// The reference values say which image it has to be, or who has to have signed it.
    pub(crate) image_compared: bool,
    /// The enclave is in debug mode.
    pub(crate) debug: bool,
    /// Why not, empty when verified.
    pub(crate) refusals: Vec<String>,
    /// What to do about some of the refusals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
    /// Every check in order.
    pub(crate) checks: Vec<Finding>,
    /// What is known now, in sentences; empty unless verified.
    pub(crate) proven: Vec<String>,
    /// What is not known, in sentences.
    pub(crate) not_proven: Vec<String>,
    /// The ledger that the document states, absent when it states none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ledger: Option<LedgerClaims>,
    /// The last records of the files that were asked about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<FileClaim>,
    /// All records of the files whose history was asked for, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) histories: Vec<FileClaim>,
    /// Who entered through the control channel, where the transcript tells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sessions: Vec<SessionClaim>,
    /// Who may enter through the control channel, by the measured manifest: nobody when empty. Absent where no manifest is
    /// known to be the enclave's: registers alone do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operators: Option<Vec<Operator>>,
    /// What the document says, absent when it is not genuine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) claims: Option<Claims>,
}

/// One row.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: String,
    /// `passed`, `failed`, `waived` or `unchecked`.
    pub(crate) status: String,
    /// What was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<String>,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<String>,
}

/// What a genuine document says.
#[derive(Debug, Serialize)]
pub(crate) struct Claims {
    /// Which module, for which enclave.
    pub(crate) module_id: String,
    /// When the document was made, by the hypervisor's clock (RFC 3339).
    pub(crate) timestamp: String,
    /// Every locked register that is not zero, in hex.
    pub(crate) pcrs: BTreeMap<String, String>,
}

impl Verdict {
    /// Adds a sentence about what is known, should the verdict be good.
    pub(crate) fn proven(&mut self, sentence: impl Into<String>) {
        self.proven.push(sentence.into());
    }

    /// Adds a sentence about what is not known.
    pub(crate) fn not_proven(&mut self, sentence: impl Into<String>) {
        self.not_proven.push(sentence.into());
    }

    /// Adds a row for what is as it has to be.
    pub(crate) fn pass(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.row(check.into(), "passed", None, found.into());
    }

    /// Adds a row for what nobody asked for, or nobody could compare.
    pub(crate) fn leave(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.row(check.into(), "unchecked", None, found.into());
    }

    /// Adds a row and a refusal.
    pub(crate) fn fail(
        &mut self,
        check: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        let (check, expected, found) = (check.into(), expected.into(), found.into());
        self.refusals.push(format!("{check}: expected {expected}, found {found}"));
        self.row(check, "failed", Some(expected), found);
    }

    fn row(&mut self, check: String, status: &str, expected: Option<String>, found: String) {
        self.checks.push(Finding { check, status: status.to_owned(), expected, found: Some(found) });
    }

    /// The answer in one line.
    pub(crate) fn headline(&self) -> String {
        let answer = if self.verified { "VERIFIED" } else { "NOT VERIFIED" };
        let mut notes = Vec::new();
        if self.simulated {
            notes.push("simulated: under the root you passed, not AWS's");
        }
        if self.any_image {
            notes.push("any image: only whether the evidence is genuine");
        } else if !self.image_compared {
            notes.push("the image is not compared: that takes PCR0, or PCR1 and PCR2, or PCR8");
        }
        if self.debug {
            notes.push("debug mode: its host can look into it");
        }
        match notes.as_slice() {
            [] => format!("{answer}  {}", self.subject),
            notes => format!("{answer}  {}  ({})", self.subject, notes.join("; ")),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.headline())?;
        let mut table = Table::new(["check", "result", "found"]);
        for finding in &self.checks {
            let found = finding.found.as_deref().unwrap_or("-");
            table.row([&finding.check, &finding.status, found]);
            if let Some(expected) = finding.expected.as_deref().filter(|_| finding.status == "failed") {
                table.row(["", "expected", expected]);
            }
        }
        write!(f, "{table}")?;
        if let Some(claims) = &self.claims {
            write!(f, "\nmodule {}, document of {}", claims.module_id, claims.timestamp)?;
        }
        match self.operators.as_deref() {
            None => {}
            Some([]) => write!(f, "\ncontrol channel: none")?,
            Some(operators) => {
                for Operator { name, may, key } in operators {
                    let may: Vec<_> = may.iter().map(ToString::to_string).collect();
                    write!(f, "\noperator {name} may {}; key {key}", may.join(", "))?;
                }
            }
        }
        for SessionClaim { number, operator, key, .. } in &self.sessions {
            write!(f, "\nsession {number}: operator {operator}; key {key}")?;
        }
        for FileClaim { path, index, cause, state, .. } in &self.histories {
            write!(f, "\nhistory {path}: entry {index}, {cause}: {state}")?;
        }
        for (label, sentences) in [("proven", &self.proven), ("not proven", &self.not_proven)] {
            sentences.iter().try_for_each(|sentence| write!(f, "\n{label}: {sentence}"))?;
        }
        for (label, sentences) in [("refused", &self.refusals), ("hint", &self.hints)] {
            sentences.iter().try_for_each(|sentence| write!(f, "\n{label}: {sentence}"))?;
        }
        Ok(())
    }
}

impl From<Check> for Finding {
    fn from(check: Check) -> Self {
        Self {
            check: check.subject.to_string(),
            status: check.status.to_string(),
            expected: check.expected,
            found: check.found,
        }
    }
}

impl Claims {
    /// Of a genuine document.
    pub(crate) fn of(verified: &Verified) -> Self {
        let set = verified.pcrs().iter().filter(|(_, value)| **value != Pcr::ZERO);
        Self {
            module_id: verified.module_id().to_owned(),
            timestamp: verified.timestamp().to_string(),
            pcrs: set.map(|(index, value)| (index.to_string(), value.to_string())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of anybody's image on the right parent instance is no evidence of an image. Whoever gives that
    /// instance's register alone has to read so in the headline.
    #[test]
    fn an_image_that_is_left_open_is_named_in_the_headline() {
        let verdict = |image_compared| Verdict {
            subject: "x".to_owned(),
            verified: true,
            image_compared,
            ..Verdict::default()
        };
        assert_eq!(verdict(true).headline(), "VERIFIED  x");
        assert!(verdict(false).headline().contains("the image is not compared"));
    }
}
