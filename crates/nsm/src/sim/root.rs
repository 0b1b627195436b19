//! The root that simulated documents end in.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PublicKeyData,
};
use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_cert::Certificate;
use x509_cert::der::{self, Decode, Encode};

use super::x509::{name, set_life, since_epoch};

/// File of the root certificate, PEM.
const CERTIFICATE_FILE: &str = "root.pem";

/// File of the root's private key, PKCS #8 in PEM.
const KEY_FILE: &str = "root.key";

const COMMON_NAME: &str = "Glasshouse development root, not for production";

/// Largest key or certificate file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Life of a new root.
const LIFE: Duration = YEAR.saturating_mul(10);

/// A self-signed ECDSA P-384 root for simulated documents, kept in a directory. Clones share it.
#[derive(Clone)]
pub struct DevelopmentRoot(Arc<Parts>);

struct Parts {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// Why there is no development root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// A file or the directory could not be made, read or written.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done to it, such as `read`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of the two files is there without the other.
    #[error(
        "{path} is missing beside its counterpart; to start over with a new root, remove both {CERTIFICATE_FILE} and {KEY_FILE}"
    )]
    HalfMissing {
        /// The missing file.
        path: PathBuf,
    },
    /// Others than its owner can read the key.
    #[error(
        "{path} has mode {mode:04o}, so others can read the key; make it 0600, or remove both {CERTIFICATE_FILE} and {KEY_FILE}"
    )]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error(
        "{path} is damaged; restore it, or remove both {CERTIFICATE_FILE} and {KEY_FILE} to start over with a new root"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Damage,
    },
    /// The root's time is over.
    #[error(
        "the root in {path} has expired; remove both {CERTIFICATE_FILE} and {KEY_FILE} to make a new one"
    )]
    Expired {
        /// The certificate file.
        path: PathBuf,
    },
    /// A new key or certificate could not be made.
    #[error("cannot make a development root")]
    Make(#[source] rcgen::Error),
}

/// What is wrong with a root's file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// More bytes than such a file has.
    #[error("it is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// Not PEM of the right kind.
    #[error("it is not the expected PEM")]
    Pem(#[source] pem::Error),
    /// Not a P-384 private key.
    #[error("it holds no ECDSA P-384 key")]
    Key(#[source] rcgen::Error),
    /// Not a certificate.
    #[error("it holds no X.509 certificate")]
    Certificate(#[source] der::Error),
    /// A certificate for another key.
    #[error("its certificate is for another key than the one in {KEY_FILE}")]
    OtherKey,
    /// A certificate that the key did not sign.
    #[error("its certificate does not bear its own signature")]
    Signature,
}

impl DevelopmentRoot {
    /// Loads the root kept in `dir`, after making one at first use: `root.pem`, the certificate to hand to verifiers, and
    /// `root.key`, mode 0600. Processes that start together get the same one.
    ///
    /// # Errors
    /// A damaged, exposed, expired or half-missing root is never replaced silently, because verifiers may have been given
    /// its certificate; each error says what to do.
    pub fn load_or_create(dir: &Path) -> Result<Self, RootError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(io_error("make", dir))?;
        let lock = File::open(dir).map_err(io_error("open", dir))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| io_error("lock", dir)(errno.into()))?;
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        match (exists(&certificate)?, exists(&key)?) {
            (true, true) => {}
            (false, false) => create(&certificate, &key, since_epoch())?,
            (true, false) => return Err(RootError::HalfMissing { path: key }),
            (false, true) => return Err(RootError::HalfMissing { path: certificate }),
        }
        load(&certificate, &key)
    }

    /// The root certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.0.pem
    }

    /// The root certificate, DER.
    pub fn root_der(&self) -> &[u8] {
        &self.0.der
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.0.issuer
    }
}

impl fmt::Debug for DevelopmentRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevelopmentRoot").finish_non_exhaustive()
    }
}

/// Makes a root at `now`, since the Unix epoch.
fn create(certificate: &Path, key: &Path, now: Duration) -> Result<(), RootError> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(RootError::Make)?;
    let mut params = params();
    // An hour back, for verifiers whose clock is behind.
    set_life(&mut params, now.saturating_sub(Duration::from_secs(3600)), LIFE);
    let root = params.self_signed(&pair).map_err(RootError::Make)?;
    write_atomically(key, pair.serialize_pem().as_bytes(), 0o600)?;
    write_atomically(certificate, root.pem().as_bytes(), 0o644)
}

fn load(certificate: &Path, key: &Path) -> Result<DevelopmentRoot, RootError> {
    let mode = fs::metadata(key).map_err(io_error("inspect", key))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(RootError::KeyExposed { path: key.into(), mode });
    }
    let damaged = |path: &Path| {
        let path = path.to_owned();
        move |source| RootError::Damaged { path, source }
    };
    let pair = read(key)?.and_then(|pem| parse_key(&pem)).map_err(damaged(key))?;
    let pem = read(certificate)?.map_err(damaged(certificate))?;
    let (der, not_after) = parse_certificate(&pem, &pair).map_err(damaged(certificate))?;
    if not_after < since_epoch() {
        return Err(RootError::Expired { path: certificate.into() });
    }
    Ok(DevelopmentRoot(Arc::new(Parts { pem, der, issuer: Issuer::new(params(), pair) })))
}

fn parse_key(pem: &str) -> Result<KeyPair, Damage> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(Damage::Pem)?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P384_SHA384).map_err(Damage::Key)
}

/// The certificate and the end of its life, if it is `pair`'s own.
fn parse_certificate(pem: &str, pair: &KeyPair) -> Result<(CertificateDer<'static>, Duration), Damage> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(Damage::Pem)?;
    let parsed = Certificate::from_der(&der).map_err(Damage::Certificate)?;
    let signed = parsed.tbs_certificate();
    let key = signed.subject_public_key_info().to_der();
    if key.map_err(Damage::Certificate)? != pair.subject_public_key_info() {
        return Err(Damage::OtherKey);
    }
    // The algorithm is named twice, once outside of what is signed (RFC 5280 section 4.1.1.2).
    let signature = parsed.signature().as_bytes();
    let signature = signature.filter(|_| parsed.signature_algorithm() == signed.signature());
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, pair.der_bytes())
        .verify(&signed.to_der().map_err(Damage::Certificate)?, signature.ok_or(Damage::Signature)?)
        .map_err(|_| Damage::Signature)?;
    let not_after = signed.validity().not_after.to_unix_duration();
    Ok((der, not_after))
}

/// What a root certificate says; the same for every root, so that a loaded key issues under the name in its certificate.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(COMMON_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn exists(path: &Path) -> Result<bool, RootError> {
    path.try_exists().map_err(io_error("inspect", path))
}

/// The file's text; damage when it is too large or no text.
fn read(path: &Path) -> Result<Result<String, Damage>, RootError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Ok(Err(Damage::TooLarge));
    }
    Ok(Ok(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes a file that appears whole and with its final mode, or not at all. The caller holds the directory's lock.
fn write_atomically(path: &Path, contents: &[u8], mode: u32) -> Result<(), RootError> {
    let new = path.with_extension("new");
    // What a process that died in here left behind.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &new)(error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options
        .open(&new)
        .and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        })
        .map_err(io_error("write", &new))?;
    fs::rename(&new, path).map_err(io_error("put in place", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |source| RootError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_root_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join(CERTIFICATE_FILE), dir.path().join(KEY_FILE));
        create(&certificate, &key, since_epoch() - LIFE).unwrap();
        let error = DevelopmentRoot::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(&error, RootError::Expired { path } if *path == certificate), "{error:?}");
    }
}
