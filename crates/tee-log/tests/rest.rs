//! Answers over HTTP, in the form of the first logs of this kind, and the proof that comes with them.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::Value;
use tee_log::{
    Attesting, Evidence, PublicKey, Row, SignedEntry, reply_digest, reply_statement, rest,
    store::{Deed, TeeLog},
};
use tower::ServiceExt;

const NOW: u64 = 1_735_000_000_000;
const NONCE: &str = "000102030405060708090a0b0c0d0e0f";

/// Says what it was asked to attest, and is no evidence of anything.
struct Echo;

impl Evidence for Echo {
    fn attest<'a>(&'a self, nonce: &'a [u8], data: &'a [u8], public_key: &'a [u8]) -> Attesting<'a> {
        Box::pin(async move {
            Ok(format!("{} {} {}", hex::encode(nonce), hex::encode(data), hex::encode(public_key)))
        })
    }
}

struct Nobody;

impl Evidence for Nobody {
    fn attest<'a>(&'a self, _: &'a [u8], _: &'a [u8], _: &'a [u8]) -> Attesting<'a> {
        Box::pin(async { Err("no enclave".into()) })
    }
}

fn log() -> Arc<TeeLog> {
    let log = TeeLog::in_memory().unwrap();
    log.register("agent", "", String::new(), NOW).unwrap();
    let deed = |content: &str| Deed {
        agent_id: "agent".to_owned(),
        room_id: "r".to_owned(),
        user_id: "u".to_owned(),
        kind: "Action:CONTINUE".to_owned(),
        content: content.to_owned(),
    };
    log.append(vec![deed("é \"quoted\" \u{1} </script>"), deed("two")], NOW + 1).unwrap();
    Arc::new(log)
}

async fn ask(router: Router, method: &str, path: &str, body: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let asked = tokio::time::timeout(std::time::Duration::from_secs(60), router.oneshot(request));
    let (head, body) = asked.await.unwrap().unwrap().into_parts();
    (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// The answer's value as its bytes are, taken out as a verifier in JavaScript would: parsed, and written again.
fn shown<'a>(answer: &'a str, name: &str) -> &'a str {
    let begin = format!("{{\"{name}\":");
    let rest = answer.strip_prefix(&begin).unwrap();
    rest.split(",\"attestation\":").next().unwrap()
}

#[tokio::test]
async fn an_answer_is_attested_byte_by_byte_and_signed() {
    let log = log();
    let router = rest::router(log.clone(), Arc::new(Echo));
    let body = r#"{"query":{"agentId":"agent","roomId":"","type":"Action:CONTINUE","containsContent":"quoted"},"page":1,"pageSize":5}"#;
    let (status, answer) = ask(router.clone(), "POST", &format!("/tee/logs?nonce={NONCE}"), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let json = shown(&answer, "logs");
    assert!(json.starts_with(r#"{"page":1,"pageSize":5,"total":1,"data":[{"id":""#), "{json}");
    // As JSON.stringify writes it.
    assert!(
        json.contains(
            r#""content":"é \"quoted\" \u0001 </script>","timestamp":1735000000001,"signature":"0x30"#
        ),
        "{json}"
    );
    let value: Value = serde_json::from_str(&answer).unwrap();
    let key = log.public_key();
    let attested = format!("{NONCE} {} {key}", hex::encode(reply_statement(json)));
    assert_eq!(value["attestation"], attested);
    let signature = hex::decode(&value["signature"].as_str().unwrap()[2..]).unwrap();
    assert!(key.verifies(&reply_digest(json), &signature));
    assert!(!key.verifies(&reply_digest(&json.replace("quoted", "Quoted")), &signature));
    let row: Row = serde_json::from_value(value["logs"]["data"][0].clone()).unwrap();
    let signed = SignedEntry::try_from(&row).unwrap();
    assert!(signed.is_signed());
    assert_eq!(signed.entry.key, PublicKey(key.0));
}

#[tokio::test]
async fn agents_are_shown_and_what_is_not_there_is_not() {
    let router = rest::router(log(), Arc::new(Echo));
    let (status, all) = ask(router.clone(), "GET", "/tee/agents", "").await;
    assert_eq!(status, StatusCode::OK);
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!((&all["agents"][0]["agentId"], &all["attestation"]), (&"agent".into(), &Value::Null));
    let (status, one) = ask(router.clone(), "GET", &format!("/tee/agents/agent?nonce={NONCE}"), "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(shown(&one, "agent").starts_with(r#"{"id":""#), "{one}");
    let (status, none) = ask(router.clone(), "GET", "/tee/agents/nobody", "").await;
    assert_eq!((status, &*none), (StatusCode::NOT_FOUND, r#"{"error":"Agent not found"}"#));
    let (status, answer) = ask(router.clone(), "POST", "/tee/logs", "{}").await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (&answer["logs"]["page"], &answer["logs"]["pageSize"], &answer["logs"]["total"]),
        (&1.into(), &10.into(), &3.into())
    );
    let (status, _) = ask(router.clone(), "POST", "/tee/logs", r#"{"page":-1,"pageSize":0}"#).await;
    assert_eq!(status, StatusCode::OK);
    for (path, body) in [
        ("/tee/logs", "["),
        ("/tee/logs", r#"{"query":{"agent":"x"}}"#),
        ("/tee/logs?nonce=00", "{}"),
        ("/tee/logs?nonce=xyz", "{}"),
    ] {
        assert_eq!(ask(router.clone(), "POST", path, body).await.0, StatusCode::BAD_REQUEST, "{path} {body}");
    }
}

#[tokio::test]
async fn where_nobody_attests_an_answer_is_signed_and_no_more() {
    let router = rest::router(log(), Arc::new(Nobody));
    let (status, answer) = ask(router.clone(), "GET", &format!("/tee/agents?nonce={NONCE}"), "").await;
    assert_eq!((status, &*answer), (StatusCode::BAD_GATEWAY, r#"{"error":"no enclave"}"#));
    let (status, answer) = ask(router, "GET", "/tee/agents", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer.contains("\"attestation\":null"), "{answer}");
}
