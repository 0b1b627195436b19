//! The agent beside a real attestation web server with a simulated module, and beside none.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::binding::{ApplicationData, Statement};
use attestation::{Document, Roots, UnixTime, verify};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use enclave_api::Enclave;
use hello_agent::{Agent, GREETING, router};
use http_body_util::BodyExt;
use nsm::PcrIndex;
use nsm::sim::{DevelopmentRoot, SimulatedNsm};
use serde_json::{Value, json};
use tower::ServiceExt;

const NONCE: &str = "000102030405060708090a0b0c0d0e0f";

fn agent(api: &Path) -> Router {
    router(Agent { name: "a-name".to_owned(), started: Instant::now(), enclave: Enclave::at(api) })
}

async fn get(agent: Router, path: &str) -> (StatusCode, Value) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(30), agent.oneshot(request));
    let (head, body) = asked.await.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// Serves the application API at `api`, and returns the root its documents end in.
async fn serve_enclave(dir: &Path, api: &Path) -> Roots {
    let root = DevelopmentRoot::load_or_create(dir).unwrap();
    let pcr0 = (PcrIndex::new(0_u8).unwrap(), [1; 48]);
    let module = SimulatedNsm::new(&root, "i-0-enc0", &[pcr0]).unwrap();
    let config = ra_web_srv::Config { api: Some(api.to_owned()), ..Default::default() };
    let server = ra_web_srv::Server::bind(config, Arc::new(module)).await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    Roots::custom(root.root_pem().as_bytes()).unwrap()
}

/// Serves one fixed answer in place of the application API.
fn serve_answer(api: &Path, status: StatusCode, body: &'static str) {
    let listener = tokio::net::UnixListener::bind(api).unwrap();
    let router = Router::new().route("/v1/attest", post(async move || (status, body)));
    tokio::spawn(async move { axum::serve(listener, router).await });
}

#[tokio::test]
async fn greets_with_its_name_and_uptime() {
    let (status, greeting) = get(agent(Path::new("/nowhere")), "/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(greeting["uptime_seconds"].as_u64().is_some_and(|seconds| seconds < 60), "{greeting}");
    assert_eq!((&greeting["greeting"], &greeting["name"]), (&json!(GREETING), &json!("a-name")));
}

#[tokio::test]
async fn document_carries_the_visitors_nonce_and_the_greeting() {
    let dir = tempfile::tempdir().unwrap();
    let api = dir.path().join("api.sock");
    let roots = serve_enclave(dir.path(), &api).await;
    let (status, answer) = get(agent(&api), &format!("/attestation?nonce={NONCE}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["greeting"], GREETING);

    let document = STANDARD.decode(answer["document"].as_str().unwrap()).unwrap();
    let at = UnixTime::from_millis(Document::decode(&document).unwrap().timestamp_ms);
    let verified = verify(&document, &roots, at).unwrap();
    assert_eq!(verified.nonce(), Some(&(0..16).collect::<Vec<u8>>()[..]));
    let data = ApplicationData::new(GREETING.as_bytes().to_vec()).unwrap();
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert_eq!(said, Statement::Application { application_key: None, data, ledger: None });
}

#[tokio::test]
async fn a_visitor_without_a_nonce_is_told_to_send_one() {
    for path in ["/attestation", "/attestation?nonce="] {
        let (status, answer) = get(agent(Path::new("/nowhere")), path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer["error"]["message"].as_str().unwrap().contains("nonce=HEX"), "{answer}");
    }
}

#[tokio::test]
async fn the_enclaves_reason_reaches_the_visitor() {
    let dir = tempfile::tempdir().unwrap();
    let api = dir.path().join("api.sock");
    serve_enclave(dir.path(), &api).await;
    let (status, answer) = get(agent(&api), "/attestation?nonce=xyz").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["error"]["message"].as_str().unwrap().contains("hex"), "{answer}");
}

#[tokio::test]
async fn outside_an_enclave_there_is_no_document_and_the_agent_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (status, answer) =
        get(agent(&dir.path().join("api.sock")), &format!("/attestation?nonce={NONCE}")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("no enclave at "), "{answer}");
}

#[tokio::test]
async fn an_answer_that_is_not_as_specified_is_a_502() {
    for (status, body) in [
        (StatusCode::OK, "{}"),
        (StatusCode::OK, "document"),
        (StatusCode::BAD_REQUEST, "no"),
        (StatusCode::INTERNAL_SERVER_ERROR, r#"{"error": {"code": "nsm_failed", "message": "broken"}}"#),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let api = dir.path().join("api.sock");
        serve_answer(&api, status, body);
        let (status, _) = get(agent(&api), &format!("/attestation?nonce={NONCE}")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    }
}

#[test]
fn the_manifest_beside_it_is_one() {
    let manifest = manifest::Manifest::parse(include_str!("../glasshouse.toml")).unwrap();
    assert_eq!(manifest.name, "hello-agent");
    assert_eq!(manifest.resources.memory_mib, 256);
}
