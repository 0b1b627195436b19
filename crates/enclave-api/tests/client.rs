//! Questions to something that answers as a test wants. A real enclave's server answers in the tests of the reference apps.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    http::{Method, StatusCode, Uri},
};
use enclave_api::{Enclave, EnclaveError, Place, Question};
use tokio::net::UnixListener;

type Asked = Arc<Mutex<Vec<String>>>;

/// Answers every question the same; returns what was asked.
fn serve(api: &Path, status: StatusCode, body: &'static str) -> Asked {
    let asked = Asked::default();
    let record = asked.clone();
    let listener = UnixListener::bind(api).unwrap();
    let router = Router::new().fallback(async move |method: Method, uri: Uri, sent: Bytes| {
        record.lock().unwrap().push(format!("{method} {uri} {}", String::from_utf8_lossy(&sent)));
        (status, body)
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    asked
}

#[tokio::test]
async fn questions_are_asked_as_specified() {
    let dir = tempfile::tempdir().unwrap();
    let api = dir.path().join("api.sock");
    let asked = serve(&api, StatusCode::OK, r#"{"document": "AAAA", "index": 9, "sequence": 2}"#);
    let enclave = Enclave::at(&api);
    let question = Question { nonce: "00ff".to_owned(), data: b"a".to_vec(), public_key: Vec::new() };
    assert_eq!(enclave.attest(&question).await.unwrap(), "AAAA");
    assert_eq!(enclave.append("log", "entry").await.unwrap(), Place { index: 9, sequence: 2 });
    assert!(enclave.stream_proof("log", 7).await.unwrap().starts_with(b"{\"document\""));
    let expected = [
        r#"POST /v1/attest {"data":"YQ==","nonce":"00ff","public_key":""}"#,
        "POST /v1/ledger/stream/log entry",
        "GET /v1/ledger/stream/log/proof?at=7 ",
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
    for name in ["", "a/b", "..", "A", &"x".repeat(64)] {
        assert!(matches!(enclave.append(name, "x").await, Err(EnclaveError::Stream)), "{name}");
    }
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let api = dir.path().join("api.sock");
    serve(&api, StatusCode::NOT_FOUND, r#"{"error": {"code": "no_ledger", "message": "none"}}"#);
    let refused = Enclave::at(&api).append("log", "x").await.unwrap_err();
    assert!(
        matches!(&refused, EnclaveError::Refused { status, code, .. } if status.as_u16() == 404 && code == "no_ledger"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_is_no_answer_is_none() {
    for (status, body) in [(StatusCode::OK, "{}"), (StatusCode::BAD_GATEWAY, "no")] {
        let dir = tempfile::tempdir().unwrap();
        let api = dir.path().join("api.sock");
        serve(&api, status, body);
        let answer = Enclave::at(&api).attest(&Question::default()).await;
        assert!(matches!(answer, Err(EnclaveError::Answer(_))), "{body}");
    }
    let nowhere = Enclave::at("/nowhere/api.sock").attest(&Question::default()).await;
    assert!(matches!(nowhere, Err(EnclaveError::Absent { .. })));
}
