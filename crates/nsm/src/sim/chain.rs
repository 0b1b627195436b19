//! The certificates over a simulated module's key.
//!
//! AWS certifies a module's key by three authorities between it and the root: region, zone and instance. So does this, with
//! the same path lengths and key usages, and about the same life times.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};

use super::root::DevelopmentRoot;
use super::x509::{name, set_life};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = HOUR.saturating_mul(24);

/// Life of a module's certificate.
pub(super) const LEAF_LIFE: Duration = HOUR.saturating_mul(3);

/// What must be left of a leaf's life for it to sign another document: a verifier needs time to look at it.
const LEAF_RESERVE: Duration = Duration::from_secs(30 * 60);

/// How far a certificate's life begins in the past: documents carry whole seconds, clocks differ a little.
const BACKDATE: Duration = Duration::from_secs(60);

/// An authority between root and module.
struct Tier {
    name: &'static str,
    life: Duration,
    path_length: u8,
    usages: &'static [KeyUsagePurpose],
}

const TIERS: [Tier; 3] = [
    Tier {
        name: "regional.glasshouse-development",
        life: DAY.saturating_mul(20),
        path_length: 2,
        usages: &[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
    },
    Tier {
        name: "zonal.glasshouse-development",
        life: DAY.saturating_mul(5),
        path_length: 1,
        usages: &[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
    },
    Tier {
        name: "instance.glasshouse-development",
        life: DAY,
        path_length: 0,
        usages: &[KeyUsagePurpose::KeyCertSign],
    },
];

/// Why a certificate or a signature could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// No key or certificate.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The new key cannot be used.
    #[error("cannot use the new key")]
    Key(#[from] KeyRejected),
    /// No signature.
    #[error("cannot sign")]
    Sign(#[from] Unspecified),
}

/// A module's key, its certificate and those above it.
pub(super) struct Chain {
    module_id: String,
    not_before: Duration,
    not_after: Duration,
    key: EcdsaKeyPair,
    /// The module's certificate, DER.
    pub(super) certificate: Vec<u8>,
    /// Root, regional, zonal, instance, DER each.
    pub(super) cabundle: Vec<Vec<u8>>,
}

impl Chain {
    /// A new chain, for use from `now` (since the Unix epoch) on.
    fn issue(root: &DevelopmentRoot, module_id: &str, now: Duration) -> Result<Self, IssueError> {
        let not_before = Duration::from_secs(now.saturating_sub(BACKDATE).as_secs());
        let mut cabundle = vec![root.root_der().to_vec()];
        let mut above: Option<Issuer<'static, KeyPair>> = None;
        for tier in &TIERS {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
            let params = tier.params(not_before);
            let issuer = above.as_ref().unwrap_or_else(|| root.issuer());
            cabundle.push(params.signed_by(&key, issuer)?.der().to_vec());
            above = Some(Issuer::new(params, key));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let issuer = above.as_ref().unwrap_or_else(|| root.issuer());
        let leaf = leaf_params(module_id, not_before).signed_by(&key, issuer)?;
        Ok(Self {
            module_id: module_id.to_owned(),
            not_before,
            not_after: not_before.saturating_add(LEAF_LIFE),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key.serialized_der())?,
            certificate: leaf.der().to_vec(),
            cabundle,
        })
    }

    /// Whether a document that says it was made at `time` (since the Unix epoch) is within the leaf's life.
    pub(super) fn covers(&self, time: Duration) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// The signature over `message`, 96 bytes, r then s.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IssueError> {
        let signature = self.key.sign(&SystemRandom::new(), message)?;
        Ok(signature.as_ref().to_vec())
    }

    fn serves(&self, module_id: &str, now: Duration) -> bool {
        self.module_id == module_id && self.covers(now) && self.covers(now.saturating_add(LEAF_RESERVE))
    }
}

impl Tier {
    fn params(&self, not_before: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(self.name);
        set_life(&mut params, not_before, self.life);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(self.path_length));
        params.key_usages = self.usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        params
    }
}

fn leaf_params(module_id: &str, not_before: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("{module_id}.glasshouse-development"));
    set_life(&mut params, not_before, LEAF_LIFE);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
    params
}

/// The chain in use, re-made before it expires or when another module's is wanted.
pub(super) struct Chains {
    root: DevelopmentRoot,
    current: Mutex<Option<Arc<Chain>>>,
}

impl Chains {
    pub(super) fn new(root: &DevelopmentRoot) -> Self {
        Self { root: root.clone(), current: Mutex::new(None) }
    }

    /// A chain for `module_id` with at least half an hour of life left at `now` (since the Unix epoch).
    pub(super) fn at(&self, module_id: &str, now: Duration) -> Result<Arc<Chain>, IssueError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chain) = current.as_ref().filter(|chain| chain.serves(module_id, now)) {
            return Ok(Arc::clone(chain));
        }
        let chain = Arc::new(Chain::issue(&self.root, module_id, now)?);
        *current = Some(Arc::clone(&chain));
        Ok(chain)
    }
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chains").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use x509_cert::Certificate;
    use x509_cert::der::Decode;
    use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};

    use super::*;

    fn chains() -> (tempfile::TempDir, Chains) {
        let dir = tempfile::tempdir().unwrap();
        let root = DevelopmentRoot::load_or_create(dir.path()).unwrap();
        (dir, Chains::new(&root))
    }

    const START: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn a_leaf_is_kept_until_half_an_hour_is_left() {
        // A simulated enclave that runs for days must keep attesting.
        let (_dir, chains) = chains();
        let first = chains.at("m", START).unwrap();
        let last_use = START - BACKDATE + LEAF_LIFE - LEAF_RESERVE;
        let kept = chains.at("m", last_use).unwrap();
        assert_eq!(kept.certificate, first.certificate);
        let renewed = chains.at("m", last_use + Duration::from_secs(1)).unwrap();
        assert_ne!(renewed.certificate, first.certificate);
        assert!(renewed.covers(last_use + LEAF_LIFE - HOUR));
    }

    #[test]
    fn a_clock_set_back_gets_a_leaf_of_its_own() {
        let (_dir, chains) = chains();
        chains.at("m", START).unwrap();
        let earlier = START - DAY;
        assert!(chains.at("m", earlier).unwrap().covers(earlier));
    }

    #[test]
    fn another_module_gets_another_certificate() {
        let (_dir, chains) = chains();
        let one = chains.at("one", START).unwrap();
        let other = chains.at("other", START).unwrap();
        assert_ne!(one.certificate, other.certificate);
    }

    #[test]
    fn certificates_are_limited_as_awss_are() {
        use KeyUsages::{CRLSign, DigitalSignature, KeyCertSign, NonRepudiation};
        let (_dir, chains) = chains();
        let chain = chains.at("m", START).unwrap();
        let authority = DigitalSignature | KeyCertSign | CRLSign;
        let expected = [
            (3650 * DAY, true, None, authority),
            (20 * DAY, true, Some(2), authority),
            (5 * DAY, true, Some(1), authority),
            (DAY, true, Some(0), KeyCertSign.into()),
            (3 * HOUR, false, None, DigitalSignature | NonRepudiation),
        ];
        let certificates = chain.cabundle.iter().chain([&chain.certificate]);
        for (der, expected) in certificates.zip(expected) {
            let certificate = Certificate::from_der(der).unwrap();
            let signed = certificate.tbs_certificate();
            let ends = signed.validity().not_after.to_unix_duration();
            let life = ends - signed.validity().not_before.to_unix_duration();
            let (_, constraints) = signed.get_extension::<BasicConstraints>().unwrap().unwrap();
            let (_, usage) = signed.get_extension::<KeyUsage>().unwrap().unwrap();
            let found = (life, constraints.ca, constraints.path_len_constraint, usage.0);
            assert_eq!(found, expected, "{}", signed.subject());
        }
    }
}
