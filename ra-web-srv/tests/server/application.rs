//! What the application asks, and what it is told: docs/spec/application-api.md.

use std::os::unix::fs::PermissionsExt;

use attestation::binding::Statement;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::client::{Answer, ask, connect};
use crate::enclave::{Enclave, application_statement, server_statement};

async fn post(enclave: &Enclave, body: impl Into<hyper::body::Bytes>) -> Answer {
    let request = Request::post("/v1/attest").header("host", "enclave").body(Full::new(body.into())).unwrap();
    ask(connect(&enclave.api).await, request).await
}

async fn attest(enclave: &Enclave, question: Value) -> Vec<u8> {
    let answer = post(enclave, question.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    STANDARD.decode(answer.json()["document"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn document_carries_nonce_data_and_public_key() {
    let enclave = Enclave::start().await;
    let document = attest(
        &enclave,
        json!({
            "nonce": "ab".repeat(64), "data": STANDARD.encode([7; 256]), "public_key": STANDARD.encode([9; 1024]),
        }),
    )
    .await;
    let verified = enclave.verify(&document);
    assert_eq!(verified.nonce(), Some(&[0xab; 64][..]));
    assert_eq!(verified.public_key(), Some(&[9; 1024][..]));
    assert_eq!(verified.user_data().unwrap(), application_statement(&[7; 256]).encode());
}

#[tokio::test]
async fn everything_is_optional() {
    let enclave = Enclave::start().await;
    for question in [json!({}), json!({"nonce": "", "data": "", "public_key": ""}), json!({"nonce": null})] {
        let verified = enclave.verify(&attest(&enclave, question).await);
        assert_eq!((verified.nonce(), verified.public_key()), (None, None));
        assert_eq!(verified.user_data().unwrap(), application_statement(b"").encode());
    }
}

/// If an application could choose `user_data`, whoever took it over could name a TLS key of theirs as the enclave's.
#[tokio::test]
async fn an_application_cannot_imitate_the_server() {
    let enclave = Enclave::start().await;
    let imitation = server_statement(enclave.key_digest).encode();
    let verified = enclave.verify(&attest(&enclave, json!({"data": STANDARD.encode(&imitation)})).await);
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert_eq!(said, application_statement(&imitation));

    for forged in [
        json!({"user_data": STANDARD.encode(&imitation)}),
        json!({"kind": "server", "data": ""}),
        json!({"data": "", "tls_key": STANDARD.encode([0; 32])}),
    ] {
        let answer = post(&enclave, forged.to_string()).await;
        assert_eq!(answer.refusal(), (400, "json_malformed".to_owned()));
    }
}

#[tokio::test]
async fn every_bad_body_is_refused_with_a_reason() {
    let enclave = Enclave::start().await;
    let cases = [
        (String::new(), "json_malformed"),
        ("[]".to_owned(), "json_malformed"),
        ("nonce=00".to_owned(), "json_malformed"),
        (r#"{"nonce": 5}"#.to_owned(), "json_malformed"),
        (r#"{"nonce": "00", "nonce": "01"}"#.to_owned(), "json_malformed"),
        (json!({"nonce": "0"}).to_string(), "nonce_not_hex"),
        (json!({"nonce": "00".repeat(65)}).to_string(), "nonce_length"),
        (json!({"data": "AA="}).to_string(), "field_not_base64"),
        (json!({"data": "_-__"}).to_string(), "field_not_base64"),
        (json!({"data": STANDARD.encode([0; 257])}).to_string(), "field_length"),
        (json!({"public_key": STANDARD.encode([0; 1025])}).to_string(), "field_length"),
    ];
    for (body, code) in cases {
        assert_eq!(post(&enclave, body.clone()).await.refusal(), (400, code.to_owned()), "{body}");
    }
    assert_eq!(post(&enclave, vec![b' '; 8 * 1024 + 1]).await.refusal(), (413, "body_too_large".to_owned()));
}

#[tokio::test]
async fn description_names_every_pcr_and_its_lock() {
    let enclave = Enclave::start().await;
    let request = Request::get("/v1/describe").header("host", "enclave").body(Full::default()).unwrap();
    let description = ask(connect(&enclave.api).await, request).await.json();
    assert_eq!(description["digest"], "SHA384");
    assert_eq!(description["pcrs"].as_object().unwrap().len(), 32);
    assert_eq!(description["pcrs"]["0"], json!({"value": "01".repeat(48), "locked": true}));
    assert_eq!(description["pcrs"]["16"], json!({"value": "00".repeat(48), "locked": false}));
}

/// Services run under users of their own; connecting takes write permission on the socket.
#[tokio::test]
async fn every_user_may_connect() {
    let enclave = Enclave::start().await;
    let mode = enclave.api_path().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[tokio::test]
async fn the_worlds_paths_are_not_here() {
    let enclave = Enclave::start().await;
    let request =
        Request::get("/v1/attestation?nonce=0011223344556677").header("host", "x").body(Full::default());
    let answer = ask(connect(&enclave.api).await, request.unwrap()).await;
    assert_eq!(answer.refusal(), (404, "no_such_path".to_owned()));
}
