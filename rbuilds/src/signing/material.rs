//! Reads keys, certificates and signatures from files, and says which file is wrong and what to do.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use eif::{Signer, SignerError};
use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};
use x509_cert::{Certificate, der::Decode};

use super::{SignError, hook};
use crate::{
    Error,
    time::{LAST_SECOND, rfc3339},
};

/// The longest file with a key, certificates or a signature, in bytes. As much certificate fits into an image.
pub(super) const MAX_PEM_BYTES: u64 = 64 << 10;

/// How PEM says that a passphrase is needed: PKCS#8 (RFC 5958) and the older form of OpenSSL (RFC 1421).
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];

/// Where signatures come from.
#[derive(Clone, Copy, Debug)]
pub enum KeySource<'a> {
    /// A file with a private key on P-256, P-384 or P-521, PEM.
    File(&'a Path),
    /// A command for `sh`, which has the bytes on its stdin signed and prints the signature.
    Command(&'a str),
    /// A file with a signature made elsewhere.
    Signature(&'a Path),
}

/// Takes the key and the certificate (PEM) that go together. `at` is the time of signing in seconds since 1970, at which
/// the certificate has to be valid.
///
/// # Errors
/// [`SignError`] names the file that is wrong.
pub fn signer(key: KeySource<'_>, certificate: &Path, at: u64) -> Result<Signer, SignError> {
    let certificate_pem = read(certificate)?;
    let wrong = |error| match error {
        SignerError::Certificate(source) => SignError::Certificate { path: certificate.to_owned(), source },
        SignerError::Mismatch => {
            SignError::Mismatch { key: path_of(key), certificate: certificate.to_owned() }
        }
        SignerError::KeyPem(_) => SignError::KeyForm { path: path_of(key) },
        // No other error comes before anything is signed; the reasons of the cryptographic library stay out.
        _ => SignError::KeyType { path: path_of(key) },
    };
    let signer = match key {
        KeySource::File(path) => {
            let key_pem = read(path)?;
            if ENCRYPTED.iter().any(|mark| key_pem.windows(mark.len()).any(|window| window == *mark)) {
                return Err(SignError::EncryptedKey { path: path.to_owned() });
            }
            Signer::from_pem(&key_pem, &certificate_pem)
        }
        KeySource::Command(command) => {
            let command = command.to_owned();
            Signer::external(&certificate_pem, move |message| {
                Ok(hook::run(&command, message, hook::TIMEOUT)?)
            })
        }
        KeySource::Signature(path) => {
            let signature = read(path)?;
            Signer::external(&certificate_pem, move |_| Ok(signature.clone()))
        }
    }
    .map_err(wrong)?;
    check_validity(certificate, &signer, at)?;
    Ok(signer)
}

fn path_of(key: KeySource<'_>) -> PathBuf {
    match key {
        KeySource::File(path) | KeySource::Signature(path) => path.to_owned(),
        KeySource::Command(_) => PathBuf::new(),
    }
}

/// All certificates in a PEM file, as DER.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SignError> {
    let wrong = |source| SignError::Certificate {
        path: path.to_owned(),
        source: eif::SignatureError::CertificatePem(source),
    };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// A certificate's first and last second, in seconds since 1970. `None` if it cannot be parsed.
pub(super) fn validity(certificate_der: &[u8]) -> Option<(u64, u64)> {
    let certificate = Certificate::from_der(certificate_der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs()))
}

fn check_validity(path: &Path, signer: &Signer, at: u64) -> Result<(), SignError> {
    let (from, until) =
        validity(signer.certificate_der()).expect("a signer's certificate was parsed for its key");
    if (from..=until).contains(&at) {
        return Ok(());
    }
    let text = |seconds: u64| rfc3339(seconds.min(LAST_SECOND));
    Err(SignError::Validity {
        path: path.to_owned(),
        not_before: text(from),
        not_after: text(until),
        at: text(at),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, SignError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::File { doing: "read", path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(SignError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}
