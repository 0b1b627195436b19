//! A ledger that breaks while it is asked. What it leaves behind is never taken for an answer.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::client::get;
use crate::enclave::Enclave;

const ATTESTATION: &str = "/v1/attestation?nonce=0011223344556677";
const PROOF: &str = "/v1/ledger/file/proof?path=/app/a";

/// Reads each request and answers with these bytes; `None` never answers.
fn answer_with(socket: &Path, answer: Option<&'static [u8]>) -> JoinHandle<()> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            match answer {
                Some(answer) => stream.write_all(answer).await.unwrap(),
                None => silent.push(stream),
            }
        }
    })
}

#[tokio::test]
async fn half_an_answer_is_none_and_neither_is_another_protocols() {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    for (answer, status, code) in [
        (&b""[..], 503, "ledger_unavailable"),
        (b"220 mail.example ready\r\n", 503, "ledger_unavailable"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\n", 503, "ledger_unavailable"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\ncontent-length: 100\r\n\r\nhalf",
            500,
            "ledger_failed",
        ),
    ] {
        let answering = answer_with(&ledger.socket, Some(answer));
        let said = get(&enclave.tcp, PROOF, None).await.0.refusal();
        assert_eq!(said, (status, code.to_owned()), "{}", String::from_utf8_lossy(answer));
        assert!(get(&enclave.tcp, ATTESTATION, None).await.0.status.is_server_error());
        answering.abort();
        let _ = answering.await;
    }
    let _serving = ledger.serve();
    assert_eq!(get(&enclave.tcp, PROOF, None).await.0.status, 200);
    assert_eq!(get(&enclave.tcp, ATTESTATION, None).await.0.status, 200);
}

/// A statement is made of the whole checkpoint or not at all.
#[tokio::test]
async fn a_checkpoint_that_is_none_is_stated_by_no_document() {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let json =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"size\": 9}";
    let _answering = answer_with(&ledger.socket, Some(json));
    let said = get(&enclave.tcp, ATTESTATION, None).await.0.refusal();
    assert_eq!(said, (500, "ledger_failed".to_owned()));
}

#[tokio::test]
async fn a_ledger_that_hangs_is_given_up_and_holds_nobody_up_who_does_not_need_it() {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let hanging = answer_with(&ledger.socket, None);
    let others = async {
        for path in ["/healthz", "/v1/manifest", "/v1/pcrs", "/metrics"] {
            assert_eq!(get(&enclave.tcp, path, None).await.0.status, 200, "{path}");
        }
    };
    let (said, ()) = tokio::join!(get(&enclave.tcp, ATTESTATION, None), others);
    assert_eq!(said.0.refusal(), (503, "ledger_unavailable".to_owned()));
    hanging.abort();
    let _ = hanging.await;
    let _serving = ledger.serve();
    assert_eq!(get(&enclave.tcp, ATTESTATION, None).await.0.status, 200);
}
