//! What to do about a refusal, for who meets it the first time. Nothing is judged here.

use attestation::{Refusal, Roots, TrustedRoot, VerifyError};

use super::gather::Source;

/// What helps when a document is not genuine at the time and under the roots asked for.
pub(super) fn on_verification(error: &VerifyError, roots: &Roots, source: Source) -> Option<&'static str> {
    match error {
        VerifyError::UntrustedRoot { found, .. } if *found == TrustedRoot::Aws.sha256() => {
            Some("the document names AWS's root: leave out --root, which replaces it")
        }
        VerifyError::UntrustedRoot { .. } if roots.iter().any(|root| root == TrustedRoot::Aws) => Some(
            "no hardware of AWS made this document. If it is a simulated enclave's, pass --root FILE with the development root of \
             the machine that it runs on, where `glasshouse dev-root` names it",
        ),
        VerifyError::UntrustedRoot { .. } => Some("the document is under another root than those of --root"),
        VerifyError::Expired { .. } | VerifyError::NotYetValid { .. } => Some(match source {
            Source::Connection(_) => {
                "is this machine's clock right? A document's certificate is valid for about three hours"
            }
            Source::Certificate(_) => {
                "a document's certificate is valid for about three hours, and the server makes another every hour: get its \
                 certificate again, or --at verifies at the time that you noted when you got it"
            }
            Source::Bundle | Source::Document => {
                "a document's certificate is valid for about three hours: --at verifies at the time that you noted when you got it"
            }
        }),
        _ => None,
    }
}

/// What helps when a genuine document is not the one wanted.
pub(super) fn on_appraisal(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::NoReferenceValues => Some(
            "say what should be running: --image app.eif, --reference app.eif.json, --pcr0 HEX or --policy FILE; --any-image asks \
             only whether the evidence is genuine",
        ),
        Refusal::PcrDiffers { .. } => {
            Some("another image runs there than the one that you named, or another build of it")
        }
        _ => None,
    }
}
