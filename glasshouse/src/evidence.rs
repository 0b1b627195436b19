//! Evidence from a running enclave: a document for a fresh nonce, and the key of the connection it came through.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use attestation::{MAX_DOCUMENT_BYTES, Sha256};
use channel::AnyCertificate;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use transport::{Addr, Stream};

use crate::exit::Usage;

/// Bytes of a nonce: as much as the strongest hash the documents use needs.
const NONCE_BYTES: usize = 32;

/// Most that is shown of an answer that is no evidence.
const MAX_QUOTED_CHARS: usize = 300;

/// A document, and the key of the server that sent it.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The attestation document.
    pub(crate) document: Vec<u8>,
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
        let document = request(tls, &host, nonce).await?;
        anyhow::Ok(Evidence { document, tls_key: Some(tls_key) })
    };
    let exchanged = runtime.block_on(async { timeout(limit, exchange).await });
    exchanged
        .with_context(|| format!("{url} did not answer within {} s", limit.as_secs()))?
        .with_context(|| format!("asking {url} for its evidence"))
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

async fn request(tls: TlsStream<Stream>, host: &str, nonce: &[u8]) -> Result<Vec<u8>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
    // The connection moves bytes while this task runs; a failure shows as one of the request.
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("/v1/attestation?nonce={}", hex::encode(nonce)))
        .header("host", host)
        .header("accept", "application/cose")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed).context("reading the answer")?.to_bytes();
    connection.abort();
    if status != StatusCode::OK {
        bail!("it answered {status}: {}", quoted(&body));
    }
    Ok(body.to_vec())
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

    #[test]
    fn a_refusing_server_gets_one_line_and_no_more() {
        assert_eq!(quoted(b" no such path\n"), "no such path");
        assert_eq!(quoted(b"no\n\nVERIFIED  https://x\x1b[2K"), "no  VERIFIED  https://x [2K");
        assert_eq!(quoted(&[b'x'; 5000]).len(), MAX_QUOTED_CHARS);
    }
}
