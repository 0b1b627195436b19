//! The ledger's share of the API, over a ledger that a test makes up: docs/spec/attestation-api.md, docs/spec/ledger-api.md.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ::attestation::Sha256;
use ::attestation::batch::NoncePath;
use ::attestation::binding::{self, Statement};
use ::attestation::bundle::{Bundle, ProofKind};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::client::{Answer, get, until};
use crate::enclave::Enclave;

const NONCE: &str = "000102030405060708090a0b0c0d0e0f";

/// A ledger that answers what a test wants, and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct FakeLedger {
    pub(crate) socket: PathBuf,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl FakeLedger {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { socket: folder.join("ledger.sock"), asked: Arc::default() }
    }

    /// Answers from now on, until the task is aborted.
    pub(crate) fn serve(&self) -> JoinHandle<()> {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
    }

    pub(crate) fn asked(&self, target: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == target).count()
    }
}

async fn answer(State(ledger): State<FakeLedger>, request: Request) -> Response {
    let target = format!("{} {}", request.method(), request.uri());
    ledger.asked.lock().unwrap().push(target.clone());
    let cbor = |text: &str| ([("content-type", "application/cbor")], text.to_owned()).into_response();
    let refusal = |status: StatusCode| (status, r#"{"error":"said the ledger"}"#).into_response();
    if target == "POST /v1/stream/app/log" {
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let said = String::from_utf8_lossy(&body[..body.len().min(10)]).into_owned();
        return axum::Json(serde_json::json!({"index": 9, "sequence": 0, "said": said})).into_response();
    }
    match target.strip_prefix("GET /v1").unwrap_or(&target) {
        "/checkpoint" => axum::Json(checkpoint()).into_response(),
        // [1, VRF key, ledger key, 3, log root, map root]
        "/baseline" => {
            let digest = |byte: u8| [&[0x58, 32][..], &[byte; 32]].concat();
            let body = [&[0x86, 1][..], &digest(7), &digest(8), &[3], &digest(9), &digest(10)].concat();
            ([("content-type", "application/cbor")], body).into_response()
        }
        "/file/proof?path=/app/%FF%20a&at=9" => cbor("proof of a file at 9"),
        "/file/proof?path=/app/a" => cbor("proof of a file now"),
        "/file/record?path=/app/a&at=9" => axum::Json(serde_json::json!({"what": "removed"})).into_response(),
        "/file/history?path=/app/a&at=9" => cbor("history at 9"),
        "/stream/app/log/proof?at=9" => cbor("stream at 9"),
        "/stream/app/log?from=2&limit=5" => {
            axum::Json(serde_json::json!({"entries": [], "next": 2})).into_response()
        }
        "/consistency?from=3&to=9" | "/consistency?from=5&to=9" => {
            axum::Json(serde_json::json!({"hashes": ["ab".repeat(32)]})).into_response()
        }
        "/tile/0/000" => vec![1, 2, 3].into_response(),
        "/file/record?path=/gone" => refusal(StatusCode::NOT_FOUND),
        "/file/record?path=/full" => refusal(StatusCode::SERVICE_UNAVAILABLE),
        "/file/record?path=/long" => Body::from(vec![b'x'; (4 << 20) + 1]).into_response(),
        "/events?from=1" => {
            let events = "event: entry\ndata: {}\n\n";
            ([("content-type", "text/event-stream")], events).into_response()
        }
        _ => refusal(StatusCode::BAD_REQUEST),
    }
}

fn checkpoint() -> serde_json::Value {
    let key = |byte: u8| hex::encode([byte; 32]);
    serde_json::json!({
        "origin": "glasshouse/x", "size": 9, "log_root": key(1), "map_root": key(2), "vrf_key": key(3),
        "ledger_key": key(4), "time": 5, "note": "n",
    })
}

pub(crate) fn stated() -> binding::Ledger {
    binding::Ledger { vrf_key: [3; 32], size: 9, log_root: Sha256([1; 32]), map_root: Sha256([2; 32]) }
}

async fn start() -> (Enclave, FakeLedger, JoinHandle<()>) {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let serving = ledger.serve();
    (enclave, ledger, serving)
}

async fn ask(enclave: &Enclave, path: &str) -> Answer {
    get(&enclave.tcp, path, None).await.0
}

#[tokio::test]
async fn every_document_states_the_ledger_as_it_is() {
    let (enclave, ledger, _serving) = start().await;
    let answer = ask(&enclave, &format!("/v1/attestation?nonce={NONCE}")).await;
    let verified = enclave.verify(&answer.body);
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert_eq!(said.ledger(), Some(&stated()));
    assert_eq!(ledger.asked("GET /v1/checkpoint"), 1);
}

/// A statement without the ledger would say that there is none.
#[tokio::test]
async fn without_the_ledgers_answer_there_is_no_document_until_it_is_back() {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let attestation = format!("/v1/attestation?nonce={NONCE}");
    for path in [&attestation, "/v1/ledger/checkpoint", "/readyz", &format!("/v1/bundle?nonce={NONCE}")] {
        let answer = ask(&enclave, path).await;
        assert_eq!(answer.refusal(), (503, "ledger_unavailable".to_owned()), "{path}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
    }
    let serving = ledger.serve();
    for path in [&attestation, "/readyz"] {
        assert_eq!(ask(&enclave, path).await.status, 200, "{path}");
    }
    serving.abort();
    let _ = serving.await;
    assert_eq!(ask(&enclave, &attestation).await.refusal(), (503, "ledger_unavailable".to_owned()));
    let _serving = ledger.serve();
    assert_eq!(ask(&enclave, &attestation).await.status, 200);
}

#[tokio::test]
async fn what_the_ledger_answers_is_passed_on_as_it_is() {
    let (enclave, _ledger, _serving) = start().await;
    for (path, content_type, body) in [
        ("/v1/ledger/file/proof?path=/app/%ff%20a&at=9", "application/cbor", "proof of a file at 9"),
        ("/v1/ledger/file/proof?path=/app/a", "application/cbor", "proof of a file now"),
        ("/v1/ledger/file/history?at=9&path=%2fapp%2Fa", "application/cbor", "history at 9"),
        ("/v1/ledger/stream/app/log/proof?at=9", "application/cbor", "stream at 9"),
        ("/v1/ledger/stream/app/log?from=2&limit=5", "application/json", r#"{"entries":[],"next":2}"#),
        ("/v1/ledger/tile/0/000", "application/octet-stream", "\x01\x02\x03"),
        ("/v1/ledger/events?from=1", "text/event-stream", "event: entry\ndata: {}\n\n"),
    ] {
        let answer = ask(&enclave, path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.body, body, "{path}");
    }
    let answer = ask(&enclave, "/v1/ledger/checkpoint").await;
    assert_eq!(answer.json(), checkpoint());
}

#[tokio::test]
async fn what_names_its_size_is_asked_for_once_and_what_does_not_each_time() {
    let (enclave, ledger, _serving) = start().await;
    for _ in 0..3 {
        ask(&enclave, "/v1/ledger/file/history?path=/app/a&at=9").await;
        let record = ask(&enclave, "/v1/ledger/file/record?path=/app/a&at=9").await;
        assert_eq!(record.json()["what"], "removed");
        let now = ask(&enclave, "/v1/ledger/file/proof?path=/app/a").await;
        assert_eq!(now.header("cache-control"), Some("no-store"));
    }
    assert_eq!(ledger.asked("GET /v1/file/history?path=/app/a&at=9"), 1);
    assert_eq!(ledger.asked("GET /v1/file/record?path=/app/a&at=9"), 1);
    assert_eq!(ledger.asked("GET /v1/file/proof?path=/app/a"), 3);
}

#[tokio::test]
async fn what_the_ledger_refuses_or_breaks_is_told_apart() {
    let (enclave, _ledger, _serving) = start().await;
    for (path, status, code) in [
        ("/v1/ledger/file/record?path=/gone", 404, "ledger_refused"),
        ("/v1/ledger/file/record?path=/unknown", 400, "ledger_refused"),
        ("/v1/ledger/file/record?path=/full", 503, "ledger_unavailable"),
        ("/v1/ledger/file/record?path=/long", 500, "ledger_failed"),
    ] {
        assert_eq!(ask(&enclave, path).await.refusal(), (status, code.to_owned()), "{path}");
    }
    let refused = ask(&enclave, "/v1/ledger/file/record?path=/gone").await.json();
    assert_eq!(refused["error"]["message"], "said the ledger");
}

/// What was not meant for the world stays with the enclave, however it is spelt.
#[tokio::test]
async fn the_ledger_is_asked_only_what_is_meant() {
    let (enclave, ledger, _serving) = start().await;
    for (path, status, code) in [
        ("/v1/ledger/file/record?path=/app/../etc/shadow", 400, "path_malformed"),
        ("/v1/ledger/file/record?path=/app/%2e%2e/etc", 400, "path_malformed"),
        ("/v1/ledger/file/record?path=//etc", 400, "path_malformed"),
        ("/v1/ledger/file/record?path=app", 400, "path_malformed"),
        ("/v1/ledger/file/record?path=/a%00b", 400, "path_malformed"),
        ("/v1/ledger/file/record?path=/a%zz", 400, "query_malformed"),
        ("/v1/ledger/file/record?path=/a&path=/b", 400, "parameter_repeated"),
        ("/v1/ledger/file/record?path=/a&at=x", 400, "parameter_malformed"),
        ("/v1/ledger/file/record?path=/a&from=1", 400, "parameter_unknown"),
        ("/v1/ledger/file/proof?path=/a&at=-1", 400, "parameter_malformed"),
        ("/v1/ledger/file/proof", 400, "parameter_missing"),
        ("/v1/ledger/entries?limit=1001", 400, "parameter_malformed"),
        ("/v1/ledger/stream/app/../egress", 404, "no_such_path"),
        ("/v1/ledger/stream/app%2f..%2fegress", 404, "no_such_path"),
        ("/v1/ledger/stream/private", 404, "no_such_path"),
        ("/v1/ledger/tile/../sweep", 404, "no_such_path"),
        ("/v1/ledger/tile/0/000%3fx=1", 404, "no_such_path"),
        ("/v1/ledger/tile/0/000%0d%0ax", 404, "no_such_path"),
        ("/v1/ledger/status", 404, "no_such_path"),
        ("/v1/ledger/sweep", 404, "no_such_path"),
    ] {
        assert_eq!(ask(&enclave, path).await.refusal(), (status, code.to_owned()), "{path}");
    }
    assert_eq!(*ledger.asked.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_without_a_ledger_says_so() {
    let enclave = Enclave::start().await;
    for path in ["/v1/ledger/checkpoint", "/v1/ledger/events", "/v1/ledger/file/proof?path=/a&at=1"] {
        assert_eq!(ask(&enclave, path).await.refusal(), (404, "no_ledger".to_owned()), "{path}");
    }
    let bundle = ask(&enclave, &format!("/v1/bundle?nonce={NONCE}&file=/a")).await;
    assert_eq!(bundle.refusal(), (404, "no_ledger".to_owned()));
}

#[tokio::test]
async fn a_bundle_has_the_answer_to_the_whole_question() {
    let (enclave, ledger, _serving) = start().await;
    let question = "&file=/app/%ff%20a&history=/app/a&stream=app/log&since=5";
    let answer = ask(&enclave, &format!("/v1/bundle?nonce={NONCE}{question}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let bundle = Bundle::decode(&answer.body).unwrap();
    assert_eq!(hex::encode(&bundle.nonce.0), NONCE);
    let verified = enclave.verify(&bundle.document.0);
    assert_eq!(verified.nonce(), Some(&bundle.nonce.0[..]));
    let Statement::Server { tls_key, .. } = Statement::decode(verified.user_data().unwrap()).unwrap() else {
        panic!("of the server")
    };
    assert_eq!(Sha256::of(&bundle.tls_key.unwrap().0), tls_key);
    assert_eq!(bundle.manifest.unwrap().0, crate::enclave::MANIFEST);
    let proofs: Vec<_> =
        bundle.proofs.iter().map(|proof| (proof.kind, &proof.subject.0[..], &proof.proof.0[..])).collect();
    assert_eq!(
        proofs,
        [
            (ProofKind::File, &b"/app/\xff a"[..], &b"proof of a file at 9"[..]),
            (ProofKind::History, b"/app/a", b"history at 9"),
            (ProofKind::Stream, b"app/log", b"stream at 9"),
        ]
    );
    let sizes: Vec<_> =
        bundle.consistency.iter().map(|consistency| (consistency.from, consistency.to)).collect();
    assert_eq!(sizes, [(3, 9), (5, 9)], "from the baseline, and from what the verifier has kept");
    assert!(bundle.baseline.is_some());
    assert_eq!(bundle.transcript, None, "no control channel");
    assert_eq!(ledger.asked("GET /v1/checkpoint"), 1);
}

#[tokio::test]
async fn a_bundle_can_be_one_of_a_batch() {
    let (enclave, module) = Enclave::start_gated(crate::enclave::patient()).await;
    let spawn = |number: u64| {
        let (addr, path) = (enclave.tcp.clone(), format!("/v1/bundle?nonce={number:016x}"));
        tokio::spawn(async move { get(&addr, &path, None).await.0 })
    };
    let first = spawn(0);
    until(|| module.asked() == 1).await;
    let others = [spawn(1), spawn(2)];
    crate::batch::until_waiting(&enclave, 2).await;
    module.release();
    assert_eq!(Bundle::decode(&first.await.unwrap().body).unwrap().batch, None);
    for (number, other) in (1_u64..).zip(others) {
        let bundle = Bundle::decode(&other.await.unwrap().body).unwrap();
        let path: NoncePath = bundle.batch.unwrap();
        let root = path.root(&number.to_be_bytes()).unwrap();
        assert_eq!(enclave.verify(&bundle.document.0).nonce(), Some(&root.0[..]));
    }
}

#[tokio::test]
async fn a_bundle_asks_for_what_can_be_answered() {
    let (enclave, _ledger, _serving) = start().await;
    let many = "&file=/a".repeat(33);
    for (question, status, code) in [
        ("&since=10", 400, "since_ahead"),
        ("&stream=app/../x", 400, "stream_malformed"),
        ("&stream=/app", 400, "stream_malformed"),
        ("&file=app", 400, "path_malformed"),
        ("&files=/app", 400, "parameter_unknown"),
        (&many, 400, "too_many_proofs"),
        ("&file=/unknown", 400, "ledger_refused"),
    ] {
        let answer = ask(&enclave, &format!("/v1/bundle?nonce={NONCE}{question}")).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{question}");
    }
    assert_eq!(ask(&enclave, "/v1/bundle").await.refusal(), (400, "nonce_missing".to_owned()));
}
