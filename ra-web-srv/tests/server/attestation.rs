//! What the world asks, and what it is told: docs/spec/attestation-api.md.

use attestation::Sha256;
use attestation::binding::Statement;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use transport::Addr;

use crate::client::{Answer, PATIENCE, ask, connect_tls, get, http2_sender, seen_key_digest, tls_config};
use crate::enclave::{Enclave, MANIFEST, server_statement};

const NONCE: &str = "000102030405060708090a0b0c0d0e0f";
const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn path(nonce: &str) -> String {
    format!("/v1/attestation?nonce={nonce}")
}

/// Steps 4 to 7 of "What a verifier does".
fn check_document(enclave: &Enclave, document: &[u8], nonce: &str, seen: Sha256) {
    let verified = enclave.verify(document);
    assert_eq!(verified.nonce().unwrap(), hex::decode(nonce).unwrap());
    assert_eq!(verified.public_key(), None);
    let binding = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert_eq!(binding, server_statement(seen));
}

async fn document_binds_the_key_seen(enclave: &Enclave, addr: &Addr) {
    let (answer, seen) = get(addr, &path(NONCE), None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/cose; cose-type=\"cose-sign1\""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(seen, enclave.key_digest);
    check_document(enclave, &answer.body, NONCE, seen);
}

#[tokio::test]
async fn document_over_tcp_binds_the_key_of_this_connection() {
    let enclave = Enclave::start().await;
    document_binds_the_key_seen(&enclave, &enclave.tcp).await;
}

#[tokio::test]
async fn document_over_a_unix_socket_binds_the_key_of_this_connection() {
    let enclave = Enclave::start().await;
    document_binds_the_key_seen(&enclave, &enclave.unix).await;
}

#[tokio::test]
async fn json_carries_the_same_kind_of_document() {
    let enclave = Enclave::start().await;
    let (answer, seen) = get(&enclave.tcp, &path(&NONCE.to_uppercase()), Some("application/json")).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let json = answer.json();
    assert_eq!(json["nonce"], NONCE);
    let document = STANDARD.decode(json["document"].as_str().unwrap()).unwrap();
    check_document(&enclave, &document, NONCE, seen);
}

#[tokio::test]
async fn every_bad_nonce_is_refused_with_a_reason() {
    let enclave = Enclave::start().await;
    let too_long = format!("?nonce={}", "00".repeat(65));
    let cases = [
        ("", "nonce_missing"),
        ("?", "nonce_missing"),
        ("?nonce=", "nonce_missing"),
        ("?nonce", "nonce_missing"),
        ("?nonce=00112233445566", "nonce_length"),
        (&too_long, "nonce_length"),
        ("?nonce=001122334455667", "nonce_not_hex"),
        ("?nonce=00112233445566zz", "nonce_not_hex"),
        ("?nonce=0x1122334455667788", "nonce_not_hex"),
        ("?nonce=0011223344556677&nonce=0011223344556677", "nonce_repeated"),
        ("?nonce=0011223344556677&binding=exporter", "parameter_unknown"),
        ("?Nonce=0011223344556677", "parameter_unknown"),
    ];
    for (query, code) in cases {
        let (answer, _) = get(&enclave.tcp, &format!("/v1/attestation{query}"), None).await;
        assert_eq!(answer.refusal(), (400, code.to_owned()), "{query}");
    }
}

#[tokio::test]
async fn shortest_and_longest_nonce_are_served() {
    let enclave = Enclave::start().await;
    for nonce in ["00".repeat(8), "ff".repeat(64)] {
        let (answer, seen) = get(&enclave.tcp, &path(&nonce), None).await;
        check_document(&enclave, &answer.body, &nonce, seen);
    }
}

#[tokio::test]
async fn a_hundred_requests_at_once_each_get_their_own_nonce() {
    let enclave =
        Enclave::start_with(ra_web_srv::Limits { nsm_queue: 100, ..crate::enclave::patient() }).await;
    let mut senders = Vec::new();
    for _ in 0..10 {
        senders.push(http2_sender(&enclave.tcp).await);
    }
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..100_u64 {
        let mut sender = senders[usize::try_from(number % 10).unwrap()].clone();
        asked.spawn(async move {
            let nonce = format!("{number:016x}");
            let uri = format!("https://localhost{}", path(&nonce));
            let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
            let answer = Answer::read(sender.send_request(request).await.unwrap()).await;
            (nonce, answer)
        });
    }
    let answers = tokio::time::timeout(PATIENCE, asked.join_all()).await.unwrap();
    assert_eq!(answers.len(), 100);
    for (nonce, answer) in answers {
        assert_eq!(answer.status, 200);
        check_document(&enclave, &answer.body, &nonce, enclave.key_digest);
    }
}

#[tokio::test]
async fn manifest_is_served_byte_for_byte() {
    let enclave = Enclave::start().await;
    let (answer, _) = get(&enclave.tcp, "/v1/manifest", None).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.body, MANIFEST);
}

#[tokio::test]
async fn greeting_and_health_need_no_nonce() {
    let enclave = Enclave::start().await;
    let (greeting, _) = get(&enclave.tcp, "/", None).await;
    assert!(String::from_utf8_lossy(&greeting.body).contains("on your own machine"));
    let (health, _) = get(&enclave.tcp, "/healthz", None).await;
    assert_eq!((health.status.as_u16(), &health.body[..]), (200, &b"ok\n"[..]));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_json() {
    let enclave = Enclave::start().await;
    // The application's paths are not for the world.
    for path in ["/v1/describe", "/v1/attest", "/v2/attestation", "/v1/attestation/"] {
        let (answer, _) = get(&enclave.tcp, path, None).await;
        assert_eq!(answer.refusal(), (404, "no_such_path".to_owned()), "{path}");
    }
    let stream = connect_tls(&enclave.tcp, tls_config(TLS13), &[]).await.unwrap();
    let request = Request::post(path(NONCE)).header("host", "localhost").body(Full::default()).unwrap();
    assert_eq!(ask(stream, request).await.refusal(), (405, "no_such_method".to_owned()));
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_http1_without_any() {
    let enclave = Enclave::start().await;
    for (offered, chosen) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = connect_tls(&enclave.tcp, tls_config(TLS13), offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
    }
}

#[tokio::test]
async fn tls_below_1_3_is_refused() {
    let enclave = Enclave::start().await;
    assert!(connect_tls(&enclave.tcp, tls_config(&[&rustls::version::TLS12]), &[]).await.is_err());
}

/// A resumed session shows no certificate, so its client could not compare keys.
#[tokio::test]
async fn a_second_connection_of_the_same_client_sees_the_certificate_again() {
    let enclave = Enclave::start().await;
    let config = tls_config(TLS13);
    for _ in 0..2 {
        let stream = connect_tls(&enclave.tcp, config.clone(), &[b"http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(seen_key_digest(&stream), enclave.key_digest);
        let request = Request::get("/healthz").header("host", "localhost").body(Full::default()).unwrap();
        assert_eq!(ask(stream, request).await.status, 200);
    }
}

#[tokio::test]
async fn every_start_makes_another_key() {
    let (first, second) = (Enclave::start().await, Enclave::start().await);
    assert_ne!(first.key_digest, second.key_digest);
}
