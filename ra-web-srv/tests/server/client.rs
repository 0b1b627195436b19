//! A peer: connects over TLS or plainly, asks, and keeps the certificate it was shown.

use std::sync::Arc;
use std::time::Duration;

use attestation::Sha256;
use channel::AnyCertificate;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ConfigBuilder};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use transport::{Addr, Stream};
use x509_cert::der::{Decode, Encode};

/// Everything a test waits for comes within this time, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status and code of a refusal; its message must not be empty.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let error = &self.json()["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        (self.status.as_u16(), error["code"].as_str().unwrap().to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the condition never came true");
}

pub(crate) async fn connect(addr: &Addr) -> Stream {
    Stream::connect(addr, PATIENCE).await.unwrap()
}

/// A TLS connection that offers the protocols `alpn`, to whoever answers at `addr`.
pub(crate) async fn connect_tls(
    addr: &Addr,
    config: ClientConfig,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<Stream>> {
    let mut config = config;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, connect(addr).await);
    tokio::time::timeout(PATIENCE, handshake).await.expect("no handshake in time")
}

pub(crate) fn tls_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    client_config(versions).with_no_client_auth()
}

pub(crate) fn client_config(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
}

/// SHA-256 of the SubjectPublicKeyInfo in the certificate the server showed.
pub(crate) fn seen_key_digest(stream: &TlsStream<Stream>) -> Sha256 {
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(chain.len(), 1);
    let certificate = x509_cert::Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(certificate.tbs_certificate().subject().to_string(), "CN=glasshouse enclave");
    Sha256::of(&certificate.tbs_certificate().subject_public_key_info().to_der().unwrap())
}

/// One GET over HTTPS/1.1 on a connection of its own; returns the key digest seen beside the answer.
pub(crate) async fn get(addr: &Addr, path: &str, accept: Option<&str>) -> (Answer, Sha256) {
    let stream = connect_tls(addr, tls_config(&[&rustls::version::TLS13]), &[b"http/1.1"]).await.unwrap();
    let seen = seen_key_digest(&stream);
    let mut request = Request::get(path).header("host", "localhost");
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    (ask(stream, request.body(Full::default()).unwrap()).await, seen)
}

/// One request over HTTP/1.1 on `stream`.
pub(crate) async fn ask<S>(stream: S, request: Request<Full<Bytes>>) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    Answer::read(response).await
}

/// The sending half of an HTTP/2 connection to `addr`.
pub(crate) async fn http2_sender(addr: &Addr) -> http2::SendRequest<Full<Bytes>> {
    let stream = connect_tls(addr, tls_config(&[&rustls::version::TLS13]), &[b"h2"]).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
