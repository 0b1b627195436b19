//! A verifier that remembers issuers.
//!
//! Documents of one enclave instance share all certificates but the leaf. Having verified the issuing chain once, a
//! document costs two signature verifications instead of five. The answer is the same as [`crate::verify`]'s in every
//! case: an issuer is found again only by the exact bytes of its whole bundle, times are checked on each use, and what a
//! remembered issuer does not vouch for is verified in full.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::TrustAnchor;
use webpki::EndEntityCert;

use crate::chain::{self, Path, Validity, borrowed};
use crate::document::Document;
use crate::key_usage::{Usage, permits};
use crate::roots::{Roots, TrustedRoot};
use crate::time::UnixTime;
use crate::verify::{Verified, VerifyError, verify_with};

/// Most issuing chains remembered; the least recently used is forgotten first. One takes about 4 KiB.
pub const MAX_CACHED_ISSUERS: usize = 64;

/// Verifies documents under a fixed set of roots and remembers their issuers. Shared between threads by reference.
#[derive(Debug)]
pub struct Verifier {
    roots: Roots,
    /// Most recently used first.
    issuers: Mutex<VecDeque<Arc<Issuer>>>,
}

impl Verifier {
    /// A verifier that trusts `roots` and remembers nothing yet.
    pub fn new(roots: Roots) -> Self {
        Verifier { roots, issuers: Mutex::default() }
    }

    /// Verifies like [`crate::verify`].
    ///
    /// # Errors
    /// The first step of the procedure that fails.
    pub fn verify(&self, document: &[u8], at: UnixTime) -> Result<Verified, VerifyError> {
        let mut new_issuer = None;
        let verified = verify_with(document, |leaf, document| {
            let known = self.recall(&document.cabundle);
            if let Some(issuer) = known.filter(|issuer| issuer.vouches_for(leaf, document, at)) {
                return Ok(issuer.root);
            }
            let path = chain::verify(leaf, document, &self.roots, at)?;
            new_issuer = Issuer::of(&path, document);
            Ok(path.root.identity)
        })?;
        if let Some(issuer) = new_issuer {
            self.remember(issuer);
        }
        Ok(verified)
    }

    fn recall(&self, cabundle: &[Vec<u8>]) -> Option<Arc<Issuer>> {
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        let index = issuers.iter().position(|issuer| issuer.cabundle == cabundle)?;
        let issuer = issuers.remove(index)?;
        issuers.push_front(Arc::clone(&issuer));
        Some(issuer)
    }

    fn remember(&self, issuer: Issuer) {
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been as quick.
        issuers.retain(|known| known.cabundle != issuer.cabundle);
        issuers.truncate(MAX_CACHED_ISSUERS - 1);
        issuers.push_front(Arc::new(issuer));
    }
}

/// An issuing chain that was found good, except for the time.
#[derive(Debug)]
struct Issuer {
    /// The exact certificates it was found good for.
    cabundle: Vec<Vec<u8>>,
    root: TrustedRoot,
    /// Those of every certificate of the chain but the leaf.
    validities: Vec<Validity>,
    /// Name and key of the leaf's issuer.
    anchor: TrustAnchor<'static>,
}

impl Issuer {
    /// What to remember of `path`. Nothing if a certificate of it constrains names: such a constraint reaches down to
    /// the leaf, so it has to be evaluated with the whole chain each time. AWS's certificates have none.
    fn of(path: &Path<'_>, document: &Document) -> Option<Self> {
        let mut validities = Vec::new();
        let mut anchors = Vec::new();
        for &index in &path.intermediates {
            let certificate = borrowed(&document.cabundle[index]);
            validities.push(Validity::of(&certificate).ok()?);
            anchors.push(webpki::anchor_from_trusted_cert(&certificate).ok()?.to_owned());
        }
        validities.push(path.root.validity);
        anchors.push(path.anchor.clone());
        if anchors.iter().any(|anchor| anchor.name_constraints.is_some()) {
            return None;
        }
        Some(Issuer {
            cabundle: document.cabundle.clone(),
            root: path.root.identity,
            validities,
            anchor: anchors.swap_remove(0),
        })
    }

    /// Steps 4 and 5 for a leaf of this issuer. `false` decides nothing.
    fn vouches_for(&self, leaf: &EndEntityCert<'_>, document: &Document, at: UnixTime) -> bool {
        self.validities.iter().all(|validity| validity.contains(at))
            && permits(&document.certificate, Usage::DigitalSignature)
            && chain::verify_leaf(leaf, std::slice::from_ref(&self.anchor), &[], at).is_ok()
    }
}

#[cfg(test)]
mod tests;
