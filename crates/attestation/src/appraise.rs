//! Appraisal: is this genuine document that of the enclave that was wanted, answering this challenge?
//!
//! Takes a [`Verified`] document only, so nothing unverified is ever compared. Collects every refusal instead of
//! stopping at the first, and keeps a list of all checks, also of those that the policy left out, for a report.
//! Spec: `docs/spec/attestation-document.md`, "Appraisal".

use std::collections::BTreeMap;
use std::fmt;

use crate::binding::{self, Statement};
use crate::digest::Sha256;
use crate::pcr::{Pcr, PcrIndex};
use crate::roots::TrustedRoot;
use crate::verify::Verified;

/// What a relying party expects of a verified document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The expected PCRs.
    pub reference_values: ReferenceValues,
    /// The challenge that the document must answer, whole. `None` leaves the nonce unchecked: the document may then
    /// be a replayed one.
    pub nonce: Option<Vec<u8>>,
    /// What `user_data` must state.
    pub binding: BindingPolicy,
    /// What PCR17 must say of the control channel. It says something of images of this framework only, whose init
    /// keeps the register for the control channel: reference values have to name such an image.
    pub control: ControlPolicy,
    /// Accepts an enclave in debug mode, whose operator can see into it.
    pub allow_debug: bool,
}

impl Policy {
    /// Compares PCRs only, and refuses debug mode.
    pub fn new(reference_values: ReferenceValues) -> Self {
        Policy {
            reference_values,
            nonce: None,
            binding: BindingPolicy::Unchecked,
            control: ControlPolicy::Unchecked,
            allow_debug: false,
        }
    }
}

/// The PCR values that a document must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceValues {
    /// Each PCR listed must be there with this value; the others are not looked at. An empty list is refused.
    Pcrs(BTreeMap<PcrIndex, Pcr>),
    /// Any image whatever. Only asks whether the document is genuine, and the appraisal says so.
    AnyImage,
}

/// What `user_data` must state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingPolicy {
    /// `user_data` is not looked at.
    Unchecked,
    /// A statement of the enclave's server.
    Server {
        /// The digest of the SubjectPublicKeyInfo that the TLS connection showed.
        tls_key: Sha256,
    },
    /// A statement of the enclave's server, whatever its key: of evidence that came through no connection of the
    /// verifier's.
    AnyServer,
    /// A statement of the application.
    Application {
        /// The application's data, exactly; `None` accepts any.
        data: Option<Vec<u8>>,
    },
    /// A statement of the control channel.
    Channel {
        /// SHA-256 of the exporter value (RFC 9266) that the verifier's own end of the connection has.
        exporter: Sha256,
    },
}

/// What PCR17 must say of the control channel (`docs/spec/control-trace.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlPolicy {
    /// Whatever it says is shown.
    Unchecked,
    /// Nobody has entered: it is not locked, or sealed.
    NeverEntered,
    /// Nobody has entered, and nobody can any more: it is locked at zero.
    Sealed,
}

/// What PCR17 of a document says of the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// The register is not locked, so it is not in the document: nobody had entered when it was made.
    NotEntered,
    /// Locked at zero: nobody has entered, and nobody can any more.
    Sealed,
    /// Somebody entered. The value is that of the first session's opening record.
    Entered(Pcr),
}

impl ControlState {
    /// Reads it from a document's registers.
    pub fn of(verified: &Verified) -> Self {
        match verified.pcr(PcrIndex::CONTROL) {
            None => Self::NotEntered,
            Some(Pcr::ZERO) => Self::Sealed,
            Some(value) => Self::Entered(value),
        }
    }
}

impl fmt::Display for ControlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEntered => f.write_str("nobody has entered (PCR17 not locked)"),
            Self::Sealed => f.write_str("sealed, nobody has entered (PCR17 locked at zero)"),
            Self::Entered(value) => write!(f, "somebody has entered (PCR17 {value})"),
        }
    }
}

/// Compares the claims of `verified` with `policy`.
///
/// # Errors
/// When a check fails: all refusals, in the order of the checks.
pub fn appraise(verified: &Verified, policy: &Policy) -> Result<Appraisal, Refused> {
    let mut findings = Findings::default();
    findings.note_root(verified);
    findings.check_debug(verified, policy);
    findings.check_reference_values(verified, &policy.reference_values);
    findings.check_nonce(verified, policy.nonce.as_deref());
    findings.check_control(ControlState::of(verified), policy.control);
    let statement = findings.check_binding(verified, &policy.binding);
    let Findings { checks, refusals } = findings;
    if !refusals.is_empty() {
        return Err(Refused { refusals, checks });
    }
    Ok(Appraisal {
        root: verified.root(),
        debug: verified.is_debug(),
        any_image: policy.reference_values == ReferenceValues::AnyImage,
        statement,
        checks,
    })
}

/// A positive answer, with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appraisal {
    /// The root that the document was verified under.
    pub root: TrustedRoot,
    /// The enclave runs in debug mode, which the policy allowed.
    pub debug: bool,
    /// The policy accepted any image: the answer is only that the document is genuine.
    pub any_image: bool,
    /// The binding statement, if the policy asked for one.
    pub statement: Option<Statement>,
    /// All checks, in order, none of them failed.
    pub checks: Vec<Check>,
}

impl Appraisal {
    /// Whether the document was signed under another root than AWS's, that is by no Nitro hypervisor.
    pub fn is_simulated(&self) -> bool {
        self.root != TrustedRoot::Aws
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub subject: Subject,
    /// How it came out.
    pub status: Status,
    /// What the policy expects, in text: hexadecimal for bytes. `None` when it expects nothing.
    pub expected: Option<String>,
    /// What the document says, in text: hexadecimal for bytes. `None` when it says nothing.
    pub found: Option<String>,
}

/// What a check looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// The root that the document was verified under.
    Root,
    /// Whether the enclave runs in debug mode.
    DebugMode,
    /// Whether there are reference values to compare with.
    ReferenceValues,
    /// The value of one PCR.
    Pcr(PcrIndex),
    /// The challenge.
    Nonce,
    /// Whether `user_data` is a binding statement of the kind wanted.
    Binding,
    /// The digest of the server's TLS key in the binding statement.
    TlsKey,
    /// The application's data in the binding statement.
    ApplicationData,
    /// The digest of the connection's exporter value in the binding statement.
    Exporter,
    /// Whether somebody entered through the control channel.
    Control,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Root => f.write_str("trusted root"),
            Subject::DebugMode => f.write_str("debug mode"),
            Subject::ReferenceValues => f.write_str("reference values"),
            Subject::Pcr(index) => write!(f, "{index} ({})", index.meaning()),
            Subject::Nonce => f.write_str("nonce"),
            Subject::Binding => f.write_str("binding statement"),
            Subject::TlsKey => f.write_str("TLS key"),
            Subject::ApplicationData => f.write_str("application data"),
            Subject::Exporter => f.write_str("connection"),
            Subject::Control => f.write_str("control channel"),
        }
    }
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Found what was expected.
    Passed,
    /// Found something else.
    Failed,
    /// Would have failed, but the policy allows it.
    Waived,
    /// The policy expects nothing.
    Unchecked,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Passed => "passed",
            Status::Failed => "failed",
            Status::Waived => "waived",
            Status::Unchecked => "unchecked",
        })
    }
}

/// A negative answer: all reasons, and all checks.
#[derive(Debug, thiserror::Error)]
#[error("{}", list(refusals))]
pub struct Refused {
    /// Why, in the order of the checks; never empty.
    pub refusals: Vec<Refusal>,
    /// All checks, in order.
    pub checks: Vec<Check>,
}

fn list(refusals: &[Refusal]) -> String {
    let reasons: Vec<_> = refusals.iter().map(Refusal::to_string).collect();
    reasons.join("; ")
}

/// One reason for a refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The enclave runs in debug mode.
    #[error("expected a production enclave, found one in debug mode (PCR0, PCR1 and PCR2 are zero)")]
    Debug,
    /// The policy has neither reference values nor the explicit wish to accept any image.
    #[error("expected at least one reference value to compare the image with, found none")]
    NoReferenceValues,
    /// A PCR has another value.
    #[error("{index} ({}): expected {expected}, found {found}", .index.meaning())]
    PcrDiffers {
        /// Which PCR.
        index: PcrIndex,
        /// The reference value.
        expected: Pcr,
        /// The document's value.
        found: Pcr,
    },
    /// A PCR is not in the document: it was not locked.
    #[error("{index} ({}): expected {expected}, found none (not locked)", .index.meaning())]
    PcrAbsent {
        /// Which PCR.
        index: PcrIndex,
        /// The reference value.
        expected: Pcr,
    },
    /// The document answers another challenge, or none.
    #[error("nonce: expected {}, found {}", hex::encode(expected), hex_or_none(found.as_deref()))]
    Nonce {
        /// The challenge given.
        expected: Vec<u8>,
        /// The document's nonce.
        found: Option<Vec<u8>>,
    },
    /// `user_data` is absent.
    #[error("binding statement: expected one of kind {expected:?} in user_data, found no user_data")]
    BindingAbsent {
        /// The kind expected.
        expected: &'static str,
    },
    /// `user_data` is no binding statement.
    #[error("binding statement: expected one of kind {expected:?} in user_data, found other bytes")]
    BindingMalformed {
        /// The kind expected.
        expected: &'static str,
        /// What was wrong with it.
        #[source]
        source: binding::DecodeError,
    },
    /// The binding statement is of another kind.
    #[error("binding statement: expected kind {expected:?}, found kind {found:?}")]
    BindingKind {
        /// The kind expected.
        expected: &'static str,
        /// The kind found.
        found: &'static str,
    },
    /// The statement names another TLS key than that of the connection.
    #[error("TLS key: expected {expected} (the connection's), found {found} (the enclave's)")]
    TlsKey {
        /// The digest of the key that the connection showed.
        expected: Sha256,
        /// The digest of the enclave's key.
        found: Sha256,
    },
    /// The statement is about another connection: somebody stands between, or replays.
    #[error(
        "connection: expected exporter digest {expected} (this connection's), found {found} (the enclave's)"
    )]
    Exporter {
        /// The digest of this connection's exporter value.
        expected: Sha256,
        /// The digest that the enclave stated.
        found: Sha256,
    },
    /// Somebody entered, or the control channel is not sealed.
    #[error("control channel: expected: {expected}; found: {found}")]
    Control {
        /// What the policy wants, in words.
        expected: &'static str,
        /// What PCR17 says.
        found: ControlState,
    },
    /// The statement holds other application data.
    #[error("application data: expected {}, found {}", hex::encode(expected), hex::encode(found))]
    ApplicationData {
        /// The data expected.
        expected: Vec<u8>,
        /// The data found.
        found: Vec<u8>,
    },
}

fn hex_or_none(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "none".to_owned(), hex::encode)
}

/// Checks and refusals as they come up.
#[derive(Default)]
struct Findings {
    checks: Vec<Check>,
    refusals: Vec<Refusal>,
}

impl Findings {
    fn note_root(&mut self, verified: &Verified) {
        // Verification already required it to be one of the trusted ones.
        let root = verified.root().to_string();
        self.add(Subject::Root, Status::Passed, Some(root.clone()), Some(root));
    }

    fn check_debug(&mut self, verified: &Verified, policy: &Policy) {
        let status = match (verified.is_debug(), policy.allow_debug) {
            (false, _) => Status::Passed,
            (true, true) => Status::Waived,
            (true, false) => Status::Failed,
        };
        if status == Status::Failed {
            self.refusals.push(Refusal::Debug);
        }
        let found = if verified.is_debug() { "on" } else { "off" };
        self.add(Subject::DebugMode, status, Some("off".to_owned()), Some(found.to_owned()));
    }

    fn check_reference_values(&mut self, verified: &Verified, values: &ReferenceValues) {
        match values {
            ReferenceValues::AnyImage => {
                self.add(
                    Subject::ReferenceValues,
                    Status::Unchecked,
                    None,
                    Some("none asked for".to_owned()),
                );
            }
            ReferenceValues::Pcrs(pcrs) if pcrs.is_empty() => {
                self.refusals.push(Refusal::NoReferenceValues);
                self.add(Subject::ReferenceValues, Status::Failed, None, Some("none given".to_owned()));
            }
            ReferenceValues::Pcrs(pcrs) => {
                for (&index, &expected) in pcrs {
                    self.check_pcr(index, expected, verified.pcr(index));
                }
            }
        }
    }

    fn check_pcr(&mut self, index: PcrIndex, expected: Pcr, found: Option<Pcr>) {
        let refusal = match found {
            Some(found) if found == expected => None,
            Some(found) => Some(Refusal::PcrDiffers { index, expected, found }),
            None => Some(Refusal::PcrAbsent { index, expected }),
        };
        let found = found.map(|pcr| pcr.to_string());
        self.compared(Subject::Pcr(index), expected.to_string(), found, refusal);
    }

    fn check_nonce(&mut self, verified: &Verified, expected: Option<&[u8]>) {
        let found = verified.nonce();
        let found_hex = found.map(hex::encode);
        let Some(expected) = expected else {
            return self.add(Subject::Nonce, Status::Unchecked, None, found_hex);
        };
        let refusal = (found != Some(expected))
            .then(|| Refusal::Nonce { expected: expected.to_vec(), found: found.map(<[u8]>::to_vec) });
        self.compared(Subject::Nonce, hex::encode(expected), found_hex, refusal);
    }

    fn check_binding(&mut self, verified: &Verified, policy: &BindingPolicy) -> Option<Statement> {
        let expected = match policy {
            BindingPolicy::Unchecked => {
                let found = verified.user_data().map(hex::encode);
                self.add(Subject::Binding, Status::Unchecked, None, found);
                return None;
            }
            BindingPolicy::Server { .. } | BindingPolicy::AnyServer => binding::KIND_SERVER,
            BindingPolicy::Application { .. } => binding::KIND_APPLICATION,
            BindingPolicy::Channel { .. } => binding::KIND_CHANNEL,
        };
        let statement = match statement_of_kind(verified, expected) {
            Ok(statement) => statement,
            Err(refusal) => {
                let found = verified.user_data().map(hex::encode);
                self.compared(Subject::Binding, expected.to_owned(), found, Some(refusal));
                return None;
            }
        };
        self.compared(Subject::Binding, expected.to_owned(), Some(expected.to_owned()), None);
        self.check_statement(&statement, policy);
        Some(statement)
    }

    /// The kinds of `statement` and `policy` are already known to be the same.
    fn check_statement(&mut self, statement: &Statement, policy: &BindingPolicy) {
        match (statement, policy) {
            (Statement::Server { tls_key: found, .. }, BindingPolicy::Server { tls_key }) => {
                let (expected, found) = (*tls_key, *found);
                let refusal = (found != expected).then_some(Refusal::TlsKey { expected, found });
                let found = Some(found.to_string());
                self.compared(Subject::TlsKey, expected.to_string(), found, refusal);
            }
            (
                Statement::Application { data: found, .. },
                BindingPolicy::Application { data: Some(expected) },
            ) => {
                let (expected, found) = (expected.clone(), found.as_bytes().to_vec());
                let (expected_hex, found_hex) = (hex::encode(&expected), hex::encode(&found));
                let refusal = (found != expected).then_some(Refusal::ApplicationData { expected, found });
                self.compared(Subject::ApplicationData, expected_hex, Some(found_hex), refusal);
            }
            (Statement::Application { data, .. }, _) => {
                let found = Some(hex::encode(data.as_bytes()));
                self.add(Subject::ApplicationData, Status::Unchecked, None, found);
            }
            (Statement::Channel { exporter: found, .. }, BindingPolicy::Channel { exporter }) => {
                let (expected, found) = (*exporter, *found);
                let refusal = (found != expected).then_some(Refusal::Exporter { expected, found });
                let found = Some(found.to_string());
                self.compared(Subject::Exporter, expected.to_string(), found, refusal);
            }
            (Statement::Server { tls_key, .. }, _) => {
                self.add(Subject::TlsKey, Status::Unchecked, None, Some(tls_key.to_string()));
            }
            (Statement::Channel { .. }, _) => {}
        }
    }

    fn check_control(&mut self, found: ControlState, policy: ControlPolicy) {
        let (expected, met) = match policy {
            ControlPolicy::Unchecked => {
                return self.add(Subject::Control, Status::Unchecked, None, Some(found.to_string()));
            }
            ControlPolicy::NeverEntered => ("nobody has entered", !matches!(found, ControlState::Entered(_))),
            ControlPolicy::Sealed => ("sealed", found == ControlState::Sealed),
        };
        let refusal = (!met).then_some(Refusal::Control { expected, found });
        self.compared(Subject::Control, expected.to_owned(), Some(found.to_string()), refusal);
    }

    fn compared(
        &mut self,
        subject: Subject,
        expected: String,
        found: Option<String>,
        refusal: Option<Refusal>,
    ) {
        let status = if refusal.is_some() { Status::Failed } else { Status::Passed };
        self.refusals.extend(refusal);
        self.add(subject, status, Some(expected), found);
    }

    fn add(&mut self, subject: Subject, status: Status, expected: Option<String>, found: Option<String>) {
        self.checks.push(Check { subject, status, expected, found });
    }
}

fn statement_of_kind(verified: &Verified, expected: &'static str) -> Result<Statement, Refusal> {
    let user_data = verified.user_data().ok_or(Refusal::BindingAbsent { expected })?;
    let statement =
        Statement::decode(user_data).map_err(|source| Refusal::BindingMalformed { expected, source })?;
    if statement.kind() != expected {
        return Err(Refusal::BindingKind { expected, found: statement.kind() });
    }
    Ok(statement)
}
