//! Gets the evidence: from a running enclave, a bundle or a stored document. Judges nothing.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use attestation::{
    MAX_DOCUMENT_BYTES, Sha256, UnixTime,
    bundle::{Bundle, MAX_BUNDLE_BYTES},
    certificate::{Attested, MAX_ATTESTED_CERTIFICATE_BYTES},
};
use base64::Engine;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    cli::VerifyArgs,
    evidence::{self, Asked, Identity, Server},
    exit::Usage,
};

/// Evidence, and how it was come by.
#[derive(Debug)]
pub(crate) struct Material {
    /// The URL or file.
    pub(crate) subject: String,
    /// The attestation document.
    pub(crate) document: Vec<u8>,
    /// What came with it; `None` with a document alone.
    pub(crate) bundle: Option<Bundle>,
    /// Where it is from.
    pub(crate) source: Source,
    /// The nonce that this side drew, or noted when it did.
    pub(crate) own_nonce: Option<Vec<u8>>,
    /// The time to verify at: this machine's clock, or one that was noted. `None`: the document's own.
    pub(crate) at: Option<UnixTime>,
}

/// Where evidence is from, which says what else is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A connection whose server showed the key with this digest.
    Connection(Sha256),
    /// A file that somebody made.
    Bundle,
    /// A file with nothing but the document.
    Document,
    /// A certificate with a document in it, for the key with this digest.
    Certificate(Sha256),
}

/// Gets what the arguments name.
pub(crate) fn gather(args: &VerifyArgs, asked: &Asked) -> Result<Material> {
    let noted = args.at.as_deref().map(time).transpose()?;
    let own_nonce = args.nonce.as_deref().map(|text| hex_of("--nonce", text)).transpose()?;
    if let Some(path) = &args.certificate {
        return from_certificate(path, noted);
    }
    match (&args.url, &args.bundle, &args.document) {
        (Some(url), _, _) => from_enclave(url, args, asked),
        (None, Some(path), _) => {
            let bytes = read_limited(path, MAX_BUNDLE_BYTES)
                .with_context(|| format!("--bundle {}", path.display()))?;
            let bundle = Bundle::decode(&bytes).with_context(|| format!("--bundle {}", path.display()))?;
            Ok(Material {
                subject: path.display().to_string(),
                document: bundle.document.0.clone(),
                bundle: Some(bundle),
                source: Source::Bundle,
                own_nonce,
                at: noted,
            })
        }
        (None, None, Some(path)) => {
            let (subject, document) = read_document(path)?;
            let at = noted.map_or_else(now, Ok)?;
            Ok(Material {
                subject,
                document,
                bundle: None,
                source: Source::Document,
                own_nonce,
                at: Some(at),
            })
        }
        (None, None, None) => {
            Err(Usage("say what to verify: a URL, --bundle FILE or --document FILE".to_owned()).into())
        }
    }
}

fn from_certificate(path: &Path, noted: Option<UnixTime>) -> Result<Material> {
    let read = || attested(&read_limited(path, 4 * MAX_ATTESTED_CERTIFICATE_BYTES)?);
    let attested = read().with_context(|| format!("--certificate {}", path.display()))?;
    Ok(Material {
        subject: name_of(path),
        own_nonce: Some(attested.nonce().to_vec()),
        source: Source::Certificate(attested.tls_key),
        document: attested.document,
        bundle: None,
        at: Some(noted.map_or_else(now, Ok)?),
    })
}

/// What the first certificate of a PEM file carries, or the one in DER that the file is.
fn attested(bytes: &[u8]) -> Result<Attested> {
    // A SEQUENCE; PEM may have any text before it.
    let der = match bytes.first() {
        Some(0x30) => bytes.to_vec(),
        _ => CertificateDer::from_pem_slice(bytes).context("neither PEM nor DER of a certificate")?.to_vec(),
    };
    Ok(Attested::of(&der)?)
}

fn from_enclave(url: &str, args: &VerifyArgs, asked: &Asked) -> Result<Material> {
    if args.at.is_some() || args.nonce.is_some() {
        let text = "--at and --nonce are for evidence in files: of a running enclave both are this machine's";
        return Err(Usage(text.to_owned()).into());
    }
    let nonce = evidence::fresh_nonce()?;
    let fetched = evidence::fetch(&server(url, args)?, &nonce, asked, Duration::from_secs(args.timeout))?;
    Ok(Material {
        subject: url.to_owned(),
        document: fetched.bundle.document.0.clone(),
        source: Source::Connection(fetched.tls_key),
        bundle: Some(fetched.bundle),
        own_nonce: Some(nonce.to_vec()),
        at: Some(now()?),
    })
}

/// The server to ask, with what the arguments have for it.
pub(crate) fn server<'a>(url: &'a str, args: &VerifyArgs) -> Result<Server<'a>> {
    let identity = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => Some(Identity::read(certificate, key)?),
        _ => None,
    };
    Ok(Server { url, identity })
}

/// The whole file, of at most `limit` bytes; `-` is standard input.
pub(crate) fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    if path.as_os_str() == "-" {
        io::stdin().take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
    }
    if bytes.len() > limit {
        bail!("it has more than {limit} bytes");
    }
    Ok(bytes)
}

fn read_document(path: &Path) -> Result<(String, Vec<u8>)> {
    let read = || decode_text(read_limited(path, 8 * MAX_DOCUMENT_BYTES)?);
    let document = read().with_context(|| format!("reading --document {}", path.display()))?;
    Ok((name_of(path), document))
}

fn name_of(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// A document as it came: the CBOR itself, or its hex or base64.
fn decode_text(bytes: Vec<u8>) -> Result<Vec<u8>> {
    // An array of four, or the tag 18 that may stand before it (RFC 9052, section 4.2).
    if matches!(bytes.first(), Some(0x84 | 0xd2)) {
        return Ok(bytes);
    }
    let text = str::from_utf8(&bytes).ok();
    let text: String = text.with_context(|| unlike(&bytes))?.split_whitespace().collect();
    if text.is_empty() {
        bail!("it is empty");
    }
    if text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return hex::decode(text).context("as hex");
    }
    base64::engine::general_purpose::STANDARD.decode(&text).map_err(|_| match text.get(..5) {
        Some("-----") => anyhow!("it is PEM and no attestation document; a certificate that carries one is for --certificate"),
        Some(text) if text.starts_with('{') => anyhow!(
            "it is JSON: of an answer that carries a document, pass that member's value; a bundle is for --bundle"
        ),
        _ => anyhow!("neither CBOR, hex nor base64"),
    })
}

/// What is neither a document nor a text of one.
fn unlike(bytes: &[u8]) -> String {
    let begins = hex::encode(bytes.get(..4).unwrap_or(bytes));
    format!(
        "no attestation document of Nitro, nor its hex or base64: it begins with the bytes {begins}, a document with 84 or d284"
    )
}

fn time(text: &str) -> Result<UnixTime> {
    text.parse().map_err(|e| Usage(format!("--at: {e}")).into())
}

fn now() -> Result<UnixTime> {
    UnixTime::try_from(SystemTime::now()).context("this machine's clock is before 1970")
}

fn hex_of(option: &str, text: &str) -> Result<Vec<u8>> {
    hex::decode(text).map_err(|e| Usage(format!("{option}: {text:?} is not hex: {e}")).into())
}
