//! `glasshouse verify`: evidence of a running enclave, or a stored document, appraised on this machine.
//!
//! Nothing the enclave says of itself is believed: the nonce, the trusted root, the reference values and the clock are
//! this side's, and the key of the TLS connection is compared with the one attested.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use attestation::{
    Appraisal, BindingPolicy, Check, ControlPolicy, MAX_DOCUMENT_BYTES, Pcr, PcrIndex, Policy,
    ReferenceValues, Refused, Roots, TrustedRoot, UnixTime, Verified, VerifyError, appraise,
    verify as verify_document,
};
use base64::Engine;
use manifest::Operator;
use rbuilds::BuildReport;
use serde::Serialize;

use crate::{
    cli::VerifyArgs,
    evidence::{self, Evidence},
    exit::{Exit, Usage},
    image::Image,
    output,
    table::Table,
};

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit> {
    let roots = roots(args)?;
    let image = args.image.as_deref().map(Image::open).transpose()?;
    let reference_values = reference_values(args, image.as_ref())?;
    let (subject, evidence, at, policy) = match (&args.document, &args.url) {
        (Some(path), _) => {
            let policy = Policy {
                nonce: args.nonce.as_deref().map(|text| hex_of("--nonce", text)).transpose()?,
                control: control_policy(args),
                allow_debug: args.allow_debug,
                ..Policy::new(reference_values)
            };
            let (name, document) = read_document(path)?;
            (name, Evidence { document, nonce: None, tls_key: None }, time(args)?, policy)
        }
        (None, Some(url)) => {
            let nonce = evidence::fresh_nonce()?;
            let evidence = evidence::fetch(url, &nonce, Duration::from_secs(args.timeout))?;
            let tls_key = evidence.tls_key.context("a TLS connection has a server key")?;
            let policy = Policy {
                nonce: evidence.nonce.clone(),
                binding: BindingPolicy::Server { tls_key },
                control: control_policy(args),
                allow_debug: args.allow_debug,
                ..Policy::new(reference_values)
            };
            (url.clone(), evidence, now()?, policy)
        }
        (None, None) => return Err(Usage("say what to verify: a URL or --document FILE".to_owned()).into()),
    };
    let mut verdict = Verdict::reach(subject, &evidence, &roots, at, &policy);
    verdict.operators =
        image.map(|image| image.manifest.control.map_or_else(Vec::new, |control| control.operators));
    if args.json {
        output::print(&serde_json::to_string(&verdict)?)?;
    } else {
        output::print(&output::printable(&verdict.to_string()))?;
    }
    Ok(if verdict.verified { Exit::Done } else { Exit::No })
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Verdict {
    /// The URL or file.
    subject: String,
    /// Whether every check the caller asked for passed.
    verified: bool,
    /// The evidence was signed under a root that the caller passed, not by AWS's hypervisor.
    simulated: bool,
    /// The caller asked only whether the evidence is genuine, whatever the image.
    any_image: bool,
    /// The reference values say which image it has to be, or who has to have signed it.
    image_compared: bool,
    /// The enclave is in debug mode.
    debug: bool,
    /// Why not, empty when verified.
    refusals: Vec<String>,
    /// Every check in order.
    checks: Vec<Finding>,
    /// Who may enter through the control channel, by the manifest in the image given: nobody when empty. Absent without
    /// an image: registers alone do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    operators: Option<Vec<Operator>>,
    /// What the document says, absent when it is not genuine.
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<Claims>,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    /// `passed`, `failed`, `waived` or `unchecked`.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
}

#[derive(Debug, Serialize)]
struct Claims {
    module_id: String,
    /// When the document was made, by the hypervisor's clock (RFC 3339).
    timestamp: String,
    /// Every locked register that is not zero, in hex.
    pcrs: BTreeMap<String, String>,
}

impl Verdict {
    fn reach(subject: String, evidence: &Evidence, roots: &Roots, at: UnixTime, policy: &Policy) -> Self {
        let verified = match verify_document(&evidence.document, roots, at) {
            Ok(verified) => verified,
            Err(error) => return Self::not_genuine(subject, roots, policy, &error),
        };
        let (checks, refusals) = match appraise(&verified, policy) {
            Ok(Appraisal { checks, .. }) => (checks, Vec::new()),
            Err(Refused { refusals, checks }) => (checks, refusals),
        };
        let genuine = Finding {
            check: "signature and certificates".to_owned(),
            status: "passed".to_owned(),
            expected: None,
            found: Some(format!("valid at {at}")),
        };
        Self {
            subject,
            verified: refusals.is_empty(),
            simulated: verified.root() != TrustedRoot::Aws,
            any_image: policy.reference_values == ReferenceValues::AnyImage,
            image_compared: says_which_image(&policy.reference_values),
            debug: verified.is_debug(),
            refusals: refusals.iter().map(ToString::to_string).collect(),
            checks: std::iter::once(genuine).chain(checks.into_iter().map(Finding::from)).collect(),
            operators: None,
            claims: Some(Claims::of(&verified)),
        }
    }

    /// A document that is not genuine says nothing, so nothing else of it is looked at.
    fn not_genuine(subject: String, roots: &Roots, policy: &Policy, error: &VerifyError) -> Self {
        let reason = chain(error);
        Self {
            subject,
            verified: false,
            simulated: !roots.iter().any(|root| root == TrustedRoot::Aws),
            any_image: policy.reference_values == ReferenceValues::AnyImage,
            image_compared: says_which_image(&policy.reference_values),
            debug: false,
            refusals: vec![reason.clone()],
            checks: vec![Finding {
                check: "signature and certificates".to_owned(),
                status: "failed".to_owned(),
                expected: None,
                found: Some(reason),
            }],
            operators: None,
            claims: None,
        }
    }

    /// The answer in one line.
    fn headline(&self) -> String {
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
        for refusal in &self.refusals {
            write!(f, "\nrefused: {refusal}")?;
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
    fn of(verified: &Verified) -> Self {
        let set = verified.pcrs().iter().filter(|(_, value)| **value != Pcr::ZERO);
        Self {
            module_id: verified.module_id().to_owned(),
            timestamp: verified.timestamp().to_string(),
            pcrs: set.map(|(index, value)| (index.to_string(), value.to_string())).collect(),
        }
    }
}

/// Registers such as PCR4 alone leave open what runs.
fn says_which_image(values: &ReferenceValues) -> bool {
    let ReferenceValues::Pcrs(pcrs) = values else { return false };
    let has = |index| PcrIndex::new(index).is_ok_and(|index| pcrs.contains_key(&index));
    has(0) || (has(1) && has(2)) || has(8)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn roots(args: &VerifyArgs) -> Result<Roots> {
    let Some(path) = &args.root else {
        return Ok(Roots::aws());
    };
    let bytes = fs::read(path).with_context(|| format!("reading --root {}", path.display()))?;
    Roots::custom(&bytes).with_context(|| format!("--root {}", path.display()))
}

/// The values the caller gives: an image's or a file's, with single registers on top.
fn reference_values(args: &VerifyArgs, image: Option<&Image>) -> Result<ReferenceValues> {
    let mut pcrs = BTreeMap::new();
    for (index, value) in image.iter().flat_map(|image| &image.pcrs) {
        pcrs.insert(PcrIndex::new(*index)?, Pcr(value.0));
    }
    if let Some(path) = &args.reference {
        for (index, value) in stored_reference(path)?.pcrs {
            pcrs.insert(PcrIndex::new(index)?, Pcr(value.0));
        }
    }
    for (index, text) in args.pcrs.given() {
        let value: Pcr = text.parse().map_err(|e| Usage(format!("--pcr{index}: {e}")))?;
        pcrs.insert(PcrIndex::new(index)?, value);
    }
    match (args.any_image, pcrs.is_empty()) {
        (true, true) => Ok(ReferenceValues::AnyImage),
        (true, false) => {
            Err(Usage("--any-image asks for no register's value: leave out --pcr...".to_owned()).into())
        }
        (false, _) => Ok(ReferenceValues::Pcrs(pcrs)),
    }
}

fn control_policy(args: &VerifyArgs) -> ControlPolicy {
    match (args.never_entered, args.sealed) {
        (_, true) => ControlPolicy::Sealed,
        (true, false) => ControlPolicy::NeverEntered,
        (false, false) => ControlPolicy::Unchecked,
    }
}

fn stored_reference(path: &Path) -> Result<BuildReport> {
    let read = || -> Result<BuildReport> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    read().with_context(|| format!("{} does not hold reference values", path.display()))
}

fn read_document(path: &Path) -> Result<(String, Vec<u8>)> {
    let context = || format!("reading --document {}", path.display());
    let limit = 8 * MAX_DOCUMENT_BYTES as u64;
    let mut bytes = Vec::new();
    let name = if path.as_os_str() == "-" {
        io::stdin().take(limit).read_to_end(&mut bytes).with_context(context)?;
        "standard input".to_owned()
    } else {
        File::open(path).with_context(context)?.take(limit).read_to_end(&mut bytes).with_context(context)?;
        path.display().to_string()
    };
    let document = decode_text(bytes).with_context(context)?;
    Ok((name, document))
}

/// A document as it came: the CBOR itself, or its hex or base64.
fn decode_text(bytes: Vec<u8>) -> Result<Vec<u8>> {
    // An array of four, or the tag 18 that may stand before it (RFC 9052, section 4.2).
    if matches!(bytes.first(), Some(0x84 | 0xd2)) {
        return Ok(bytes);
    }
    let text = str::from_utf8(&bytes).ok().context("neither CBOR nor text")?;
    let text: String = text.split_whitespace().collect();
    if text.is_empty() {
        bail!("it is empty");
    }
    if text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return hex::decode(text).context("as hex");
    }
    base64::engine::general_purpose::STANDARD.decode(text).context("neither CBOR, hex nor base64")
}

fn time(args: &VerifyArgs) -> Result<UnixTime> {
    match &args.at {
        Some(text) => text.parse().map_err(|e| Usage(format!("--at: {e}")).into()),
        None => now(),
    }
}

fn now() -> Result<UnixTime> {
    UnixTime::try_from(SystemTime::now()).context("this machine's clock is before 1970")
}

fn hex_of(option: &str, text: &str) -> Result<Vec<u8>> {
    hex::decode(text).map_err(|e| Usage(format!("{option}: {text:?} is not hex: {e}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of anybody's image on the right parent instance is no evidence of an image. Whoever gives that
    /// instance's register alone has to read so in the headline.
    #[test]
    fn registers_that_leave_the_image_open_are_named_in_the_headline() {
        let compared = |indices: &[u8]| {
            let pcrs = indices.iter().map(|index| (PcrIndex::new(*index).unwrap(), Pcr::ZERO)).collect();
            says_which_image(&ReferenceValues::Pcrs(pcrs))
        };
        for indices in [&[0][..], &[1, 2], &[8], &[0, 4, 16]] {
            assert!(compared(indices), "{indices:?}");
        }
        for indices in [&[][..], &[1], &[2], &[3, 4], &[16]] {
            assert!(!compared(indices), "{indices:?}");
        }
        assert!(!says_which_image(&ReferenceValues::AnyImage));
        let verdict = |image_compared| Verdict {
            subject: "x".to_owned(),
            verified: true,
            simulated: false,
            any_image: false,
            image_compared,
            debug: false,
            refusals: Vec::new(),
            checks: Vec::new(),
            operators: None,
            claims: None,
        };
        assert_eq!(verdict(true).headline(), "VERIFIED  x");
        assert!(verdict(false).headline().contains("the image is not compared"));
    }
}
