//! Evidence from a running enclave: a document for a fresh nonce, and the key of the connection it came through.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use attestation::{MAX_DOCUMENT_BYTES, Sha256, batch::NoncePath};
use base64::{Engine, engine::general_purpose::STANDARD};
use channel::AnyCertificate;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use transport::{Addr, Stream};

use crate::exit::Usage;

/// Bytes of a nonce: as much as the strongest hash the documents use needs.
const NONCE_BYTES: usize = 32;

/// Longest answer: the document in base64, its nonce and a path of 16 hashes in hex, and room to spare.
const MAX_ANSWER_BYTES: usize = MAX_DOCUMENT_BYTES * 2;

/// Most that is shown of an answer that is no evidence.
const MAX_QUOTED_CHARS: usize = 300;

/// A document, and the key of the server that sent it.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The attestation document.
    pub(crate) document: Vec<u8>,
    /// What the document's nonce has to be: the one sent, or the root of the batch that has it at the place that the server
    /// states (`docs/spec/nonce-batch.md`). Computed here, from the nonce sent. `None` for a document that nobody was asked for.
    pub(crate) nonce: Option<Vec<u8>>,
    /// SHA-256 of the SubjectPublicKeyInfo of the TLS connection's server, if it came through one.
    pub(crate) tls_key: Option<Sha256>,
}

/// A nonce nobody can have seen.
pub(crate) fn fresh_nonce() -> Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    let provider = aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut nonce).ok().context("the system gives no random bytes")?;
    Ok(nonce)
}

/// Asks the attestation server at `url` for a document with `nonce`.
pub(crate) fn fetch(url: &str, nonce: &[u8], limit: Duration) -> Result<Evidence> {
    let (host, port) = parse(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exchange = async {
        let tls = connect(&host, port, limit).await?;
        let tls_key = server_key(&tls)?;
        let answer = request(tls, &host, nonce).await?;
        answer.evidence(nonce, tls_key)
    };
    let exchanged = runtime.block_on(async { timeout(limit, exchange).await });
    exchanged
        .with_context(|| format!("{url} did not answer within {} s", limit.as_secs()))?
        .with_context(|| format!("asking {url} for its evidence"))
}

/// What the server answers, as far as it is of use: what it says the nonce was is not.
#[derive(Deserialize)]
struct Answer {
    document: String,
    batch: Option<NoncePath>,
}

impl Answer {
    fn evidence(self, nonce: &[u8], tls_key: Sha256) -> Result<Evidence> {
        let document = STANDARD.decode(self.document).context("the document in its answer is not base64")?;
        let nonce = match self.batch {
            None => nonce.to_vec(),
            Some(path) => path.root(nonce).context("its answer states a batch of nonces")?.0.to_vec(),
        };
        Ok(Evidence { document, nonce: Some(nonce), tls_key: Some(tls_key) })
    }
}

/// Host and port of an `https` URL without a path.
fn parse(url: &str) -> Result<(String, u16)> {
    let wrong = || Usage(format!("{url:?} is not https://HOST:PORT"));
    let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
    let has_path = !matches!(uri.path(), "" | "/") || uri.query().is_some();
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if !has_path => Ok((host.to_owned(), uri.port_u16().unwrap_or(443))),
        _ => Err(wrong().into()),
    }
}

async fn connect(host: &str, port: u16, limit: Duration) -> Result<TlsStream<Stream>> {
    let stream = Stream::connect(&Addr::Tcp(format!("{host}:{port}")), limit).await?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate::new(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

fn server_key(tls: &TlsStream<Stream>) -> Result<Sha256> {
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = certificates.first().context("the server showed no certificate")?;
    let certificate = webpki::EndEntityCert::try_from(leaf).context("the server's certificate")?;
    Ok(Sha256::of(&certificate.subject_public_key_info()))
}

async fn request(tls: TlsStream<Stream>, host: &str, nonce: &[u8]) -> Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
    // The connection moves bytes while this task runs; a failure shows as one of the request.
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("/v1/attestation?nonce={}", hex::encode(nonce)))
        .header("host", host)
        .header("accept", "application/json")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed).context("reading the answer")?.to_bytes();
    connection.abort();
    if status != StatusCode::OK {
        bail!("it answered {status}: {}", quoted(&body));
    }
    serde_json::from_slice(&body).context("its answer is no evidence")
}

/// The beginning of what a server said in place of evidence, on one line: whoever answers there is not trusted, and must
/// not be able to write a verdict of his own below ours.
fn quoted(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MAX_QUOTED_CHARS).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six share a document; the verifier believes the place that it is told, never the root.
    #[test]
    fn the_nonce_to_demand_is_computed_from_the_one_sent() {
        let nonces: Vec<_> = (0..6_u8).map(|byte| [byte; 32]).collect();
        let batch = attestation::batch::NonceBatch::new(&nonces).unwrap();
        let expected = |nonce: &[u8], batch: Option<NoncePath>| {
            let answer = serde_json::json!({
                "document": "ZG9jdW1lbnQ=", "nonce": hex::encode(nonce), "batch": batch, "ledger": "later",
            });
            let answer: Answer = serde_json::from_value(answer).unwrap();
            answer.evidence(nonce, Sha256([0; 32]))
        };
        let alone = expected(&nonces[4], None).unwrap();
        assert_eq!((&alone.document[..], alone.nonce), (&b"document"[..], Some(nonces[4].to_vec())));
        let root = Some(batch.root().0.to_vec());
        assert_eq!(expected(&nonces[4], batch.path(4)).unwrap().nonce, root);
        assert_ne!(expected(&[9; 32], batch.path(4)).unwrap().nonce, root);
        let nowhere = NoncePath { index: 6, ..batch.path(4).unwrap() };
        assert!(expected(&nonces[4], Some(nowhere)).is_err());
    }

    #[test]
    fn a_refusing_server_gets_one_line_and_no_more() {
        assert_eq!(quoted(b" no such path\n"), "no such path");
        assert_eq!(quoted(b"no\n\nVERIFIED  https://x\x1b[2K"), "no  VERIFIED  https://x [2K");
        assert_eq!(quoted(&[b'x'; 5000]).len(), MAX_QUOTED_CHARS);
    }
}
