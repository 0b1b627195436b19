//! What a policy says of a genuine document.

use std::fmt;

use attestation::{ControlState, PcrIndex, Verified};
use serde_json::Value;

use super::{ControlRequirement, PolicyFile, Release};
use crate::Registers;

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// Which release runs.
    Release,
    /// Who signed the image.
    Signer,
    /// Whether the release is new enough.
    MinimumVersion,
    /// The control channel.
    Control,
    /// What may be reached.
    EgressOnly,
    /// A member of the manifest, by its JSON Pointer.
    Manifest(String),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release => f.write_str("policy: release"),
            Self::Signer => f.write_str("policy: signer"),
            Self::MinimumVersion => f.write_str("policy: minimum version"),
            Self::Control => f.write_str("policy: control channel"),
            Self::EgressOnly => f.write_str("policy: egress"),
            Self::Manifest(pointer) => write!(f, "policy: manifest {pointer}"),
        }
    }
}

/// One demand of a policy, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which demand.
    pub rule: Rule,
    /// Whether it is met.
    pub met: bool,
    /// What is demanded.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl PolicyFile {
    /// Judges `verified`, every demand of it. `manifest` is the measured manifest if, and only if, its digest was found in
    /// the measurement: without it, demands on it are not met.
    pub fn judge(&self, verified: &Verified, manifest: Option<&[u8]>) -> Vec<Finding> {
        self.judge_registers(verified.pcrs(), ControlState::of(verified), manifest)
    }

    pub(super) fn judge_registers(
        &self,
        registers: &Registers,
        control: ControlState,
        manifest: Option<&[u8]>,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let release = self.releases.iter().find(|release| differing(release, registers).is_none());
        if !self.releases.is_empty() {
            findings.push(self.judge_release(release, registers));
        }
        if !self.signers.is_empty() {
            findings.push(self.judge_signer(registers));
        }
        if let Some(minimum) = &self.minimum_version {
            let met = release.is_some_and(|release| release.version >= *minimum);
            let found =
                release.map_or_else(|| "no release".to_owned(), |release| release.version.to_string());
            let expected = format!("{minimum} or later");
            findings.push(Finding { rule: Rule::MinimumVersion, met, expected, found });
        }
        let manifest = manifest.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        findings.extend(self.control.map(|wanted| judge_control(wanted, control, manifest.as_ref())));
        findings.extend(self.egress_only.as_deref().map(|only| judge_egress(only, manifest.as_ref())));
        findings.extend(self.judge_manifest(manifest.as_ref()));
        findings
    }

    /// The registers that a document with `found` is to be compared with: those of the release that fits, else of the
    /// nearest, and the signer that fits, else the first.
    pub fn reference_values(&self, found: &Registers) -> Registers {
        let fits = self.releases.iter().find(|release| differing(release, found).is_none());
        let nearest = || self.releases.iter().max_by_key(|release| common(release, found));
        let mut registers =
            fits.or_else(nearest).map_or_else(Registers::new, |release| release.registers.clone());
        let signed = found.get(&PcrIndex::SIGNER).filter(|signer| self.signers.contains(signer));
        if let Some(signer) = signed.or(self.signers.first()) {
            registers.insert(PcrIndex::SIGNER, *signer);
        }
        registers
    }

    fn judge_release(&self, release: Option<&Release>, registers: &Registers) -> Finding {
        let (met, found) = match release {
            Some(Release { version, withdrawn: None, .. }) => (true, version.to_string()),
            Some(Release { version, withdrawn: Some(why), .. }) => {
                (false, format!("{version}, which is withdrawn: {why}"))
            }
            None => (false, self.nearest(registers)),
        };
        let versions: Vec<_> = self
            .releases
            .iter()
            .filter(|release| release.withdrawn.is_none())
            .map(|release| release.version.to_string())
            .collect();
        Finding { rule: Rule::Release, met, expected: format!("one of {}", versions.join(", ")), found }
    }

    /// The release that has most registers in common with what was found, and what differs.
    fn nearest(&self, registers: &Registers) -> String {
        let nearest = self.releases.iter().max_by_key(|release| common(release, registers));
        let nearest = nearest.filter(|release| common(release, registers) > 0);
        let differs = |release| differing(release, registers).map(|index| (release, index));
        match nearest.and_then(differs) {
            Some((Release { version, .. }, index)) => {
                format!("none of them; of {version}, {index} ({}) differs", index.meaning())
            }
            None => "none of them, and nothing in common with one".to_owned(),
        }
    }

    fn judge_signer(&self, registers: &Registers) -> Finding {
        let found = registers.get(&PcrIndex::SIGNER);
        let met = found.is_some_and(|found| self.signers.contains(found));
        let text = |values: &[attestation::Pcr]| {
            let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
            texts.join(" or ")
        };
        Finding {
            rule: Rule::Signer,
            met,
            expected: format!("PCR8 {}", text(&self.signers)),
            found: found.map_or_else(|| "none".to_owned(), |found| format!("PCR8 {found}")),
        }
    }

    fn judge_manifest(&self, manifest: Option<&Value>) -> impl Iterator<Item = Finding> {
        let wanted = self.manifest.iter().map(|(pointer, value)| (pointer, Some(value)));
        let unwanted = self.absent.iter().map(|pointer| (pointer, None));
        wanted.chain(unwanted).map(move |(pointer, expected)| {
            let found = manifest.map(|manifest| manifest.pointer(pointer));
            let text = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            Finding {
                rule: Rule::Manifest(pointer.clone()),
                met: found.is_some_and(|found| found == expected),
                expected: text(expected),
                found: found.map_or_else(|| NO_MANIFEST.to_owned(), text),
            }
        })
    }
}

const NO_MANIFEST: &str = "no manifest whose digest is in the measurement";

/// The first register of `release` that has another value.
fn differing(release: &Release, registers: &Registers) -> Option<PcrIndex> {
    release
        .registers
        .iter()
        .find(|(index, value)| registers.get(index) != Some(value))
        .map(|(index, _)| *index)
}

/// How many registers of `release` have the value found.
fn common(release: &Release, found: &Registers) -> usize {
    release.registers.iter().filter(|(index, value)| found.get(index) == Some(value)).count()
}

fn judge_control(wanted: ControlRequirement, state: ControlState, manifest: Option<&Value>) -> Finding {
    let in_manifest = manifest.map(|manifest| manifest.get("control").is_some());
    let entered = matches!(state, ControlState::Entered(_));
    let (expected, met) = match wanted {
        ControlRequirement::NeverEntered => ("nobody has entered", !entered),
        ControlRequirement::Sealed => ("sealed", state == ControlState::Sealed),
        ControlRequirement::Absent => {
            ("no control channel in the manifest", !entered && in_manifest == Some(false))
        }
    };
    let found = match (wanted, in_manifest) {
        (ControlRequirement::Absent, None) => format!("{NO_MANIFEST}; {state}"),
        (ControlRequirement::Absent, Some(true)) => format!("a control channel; {state}"),
        _ => state.to_string(),
    };
    Finding { rule: Rule::Control, met, expected: expected.to_owned(), found }
}

fn judge_egress(only: &[egress::Rule], manifest: Option<&Value>) -> Finding {
    let list = |rules: &[egress::Rule]| {
        let texts: Vec<_> = rules.iter().map(ToString::to_string).collect();
        if texts.is_empty() { "nothing".to_owned() } else { texts.join(", ") }
    };
    let (met, found) = match manifest.map(|manifest| egress_beyond(manifest, only)) {
        None => (false, NO_MANIFEST.to_owned()),
        Some(None) => (false, "an egress policy that cannot be read".to_owned()),
        Some(Some(beyond)) if beyond.is_empty() => (true, "nothing beyond it is allowed".to_owned()),
        Some(Some(beyond)) => (false, format!("the manifest also allows {}", list(&beyond))),
    };
    Finding { rule: Rule::EgressOnly, met, expected: format!("at most {}", list(only)), found }
}

/// The rules of a manifest that allow what no rule of `only` covers; `None` when the manifest's rules cannot be read. A
/// manifest without a way out allows nothing.
pub fn egress_beyond(manifest: &Value, only: &[egress::Rule]) -> Option<Vec<egress::Rule>> {
    let Some(egress) = manifest.get("egress") else { return Some(Vec::new()) };
    let allowed: Vec<egress::Rule> = serde_json::from_value(egress.get("allow")?.clone()).ok()?;
    Some(allowed.into_iter().filter(|rule| !only.iter().any(|own| own.covers(rule))).collect())
}
