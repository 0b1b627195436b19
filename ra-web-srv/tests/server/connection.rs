//! How peers reach the server: with a certificate that carries a document, with one of their own, or without TLS.

use std::time::Duration;

use ::attestation::binding::Statement;
use http_body_util::Full;
use hyper::Request;
use ra_web_srv::{Config, Limits};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::Addr;
use x509_cert::der::Decode;

use crate::client::{PATIENCE, ask, client_config, connect, connect_tls, get, tls_config};
use crate::enclave::{Enclave, Refusing};

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The content of the document's extension in the certificate that the server shows now.
async fn extension(enclave: &Enclave) -> Option<Vec<u8>> {
    let stream = connect_tls(&enclave.tcp, tls_config(TLS13), &[]).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
    let certificate = x509_cert::Certificate::from_der(&chain[0]).unwrap();
    let extensions = certificate.tbs_certificate().extensions()?.clone();
    let found = extensions.into_iter().find(|found| found.extn_id.to_string() == "1.3.6.1.5.5.7.1.35")?;
    assert!(!found.critical);
    Some(found.extn_value.as_bytes().to_vec())
}

#[tokio::test]
async fn the_certificate_carries_a_document_about_its_key() {
    let config = Config { attested_certificate: true, ..Config::default() };
    let enclave = Enclave::start_configured(config).await;
    let carried = async {
        loop {
            match extension(&enclave).await {
                Some(extension) => return extension,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let wrapper = tokio::time::timeout(PATIENCE, carried).await.expect("no document in the certificate");
    // OCTET STRING with a length of two bytes, and in it [media type, document].
    assert_eq!((wrapper[0], wrapper[1]), (0x04, 0x82));
    assert_eq!(usize::from(u16::from_be_bytes([wrapper[2], wrapper[3]])), wrapper.len() - 4);
    let mut decoder = minicbor::Decoder::new(&wrapper[4..]);
    assert_eq!(decoder.array().unwrap(), Some(2));
    assert_eq!(decoder.str().unwrap(), "application/cose; cose-type=\"cose-sign1\"");
    let verified = enclave.verify(decoder.bytes().unwrap());
    assert_eq!(verified.nonce(), Some(&enclave.key_digest.0[..]));
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert!(matches!(said, Statement::Server { tls_key, .. } if tls_key == enclave.key_digest));
    // A fresh document is to be had as ever.
    let (answer, seen) = get(&enclave.tcp, "/v1/attestation?nonce=0011223344556677", None).await;
    assert_eq!((answer.status.as_u16(), seen), (200, enclave.key_digest));
}

#[tokio::test]
async fn without_a_document_the_certificate_serves_as_well() {
    let config = Config { attested_certificate: true, ..Config::default() };
    let enclave = Enclave::start_configured_on(Refusing, config).await;
    assert_eq!(get(&enclave.tcp, "/healthz", None).await.0.status, 200);
    assert_eq!(extension(&enclave).await, None);
}

/// An authority, and a client's configuration with a certificate that it signed.
fn authority() -> (String, ClientConfig) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["client".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = client_config(TLS13).with_client_auth_cert(vec![certificate.der().clone()], key).unwrap();
    (authority.pem(), config)
}

async fn healthy(addr: &Addr, config: ClientConfig) -> bool {
    // A server tells in TLS 1.3 only after the client's handshake that it does not want it.
    let Ok(mut stream) = connect_tls(addr, config, &[b"http/1.1"]).await else { return false };
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server hung");
    answer.starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test]
async fn with_an_authority_named_only_its_clients_are_served() {
    let (pem, client) = authority();
    let (_, stranger) = authority();
    let config = Config { client_roots: Some(pem.into_bytes()), ..Config::default() };
    let enclave = Enclave::start_configured(config).await;
    assert!(healthy(&enclave.tcp, client).await);
    assert!(!healthy(&enclave.tcp, stranger).await);
    assert!(!healthy(&enclave.tcp, tls_config(TLS13)).await);
}

#[tokio::test]
async fn plain_http_is_served_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Addr::Unix(dir.path().join("plain.sock"));
    let config = Config { plain: vec![plain.clone()], ..Config::default() };
    let enclave = Enclave::start_configured(config).await;
    let request = Request::get("/v1/attestation?nonce=0011223344556677").header("host", "x");
    let answer = ask(connect(&plain).await, request.body(Full::default()).unwrap()).await;
    let verified = enclave.verify(&answer.body);
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert!(matches!(said, Statement::Server { tls_key, .. } if tls_key == enclave.key_digest));
}

/// The server had room for 256, so that a crowd that says nothing kept everybody else out for as long as a handshake may take.
#[tokio::test]
async fn four_hundred_who_say_nothing_keep_nobody_waiting() {
    let more = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: more.maximum, ..more };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let limits = Limits { handshake: Duration::from_secs(3600), ..crate::enclave::patient() };
    let enclave = Enclave::start_with(limits).await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(connect(&enclave.tcp).await);
    }
    let (answer, _) = get(&enclave.tcp, "/healthz", None).await;
    assert_eq!(answer.status, 200);
}
