//! What the enclave tells of itself beside documents: docs/spec/attestation-api.md.

use http_body_util::Full;
use hyper::Request;
use ra_web_srv::Limits;
use serde_json::json;

use crate::client::{Answer, ask as send, connect_tls, get, tls_config};
use crate::enclave::{Enclave, Refusing};

async fn ask(enclave: &Enclave, path: &str) -> Answer {
    get(&enclave.tcp, path, None).await.0
}

#[tokio::test]
async fn the_module_is_described_and_said_to_prove_nothing() {
    let enclave = Enclave::start().await;
    let module = ask(&enclave, "/v1/nsm").await.json();
    assert_eq!(module["digest"], "SHA384");
    assert_eq!(module["max_pcrs"], 32);
    assert_eq!(module["locked_pcrs"], json!((0..16).collect::<Vec<_>>()));
    let pcrs = ask(&enclave, "/v1/pcrs").await.json();
    assert_eq!(pcrs["pcrs"].as_object().unwrap().len(), 32);
    assert_eq!(pcrs["pcrs"]["1"], json!({"value": "02".repeat(48), "locked": true}));
    for answer in [module, pcrs] {
        assert!(answer["note"].as_str().unwrap().contains("proves nothing"), "{answer}");
    }
}

#[tokio::test]
async fn random_bytes_are_as_many_as_asked_for_and_never_too_many() {
    let enclave = Enclave::start().await;
    for (query, length) in [("", 32), ("?len=1", 1), ("?len=1024", 1024)] {
        let first = ask(&enclave, &format!("/v1/random{query}")).await;
        assert_eq!(first.header("content-type"), Some("application/octet-stream"));
        assert_eq!(first.header("cache-control"), Some("no-store"));
        assert_eq!(first.body.len(), length);
        if length > 8 {
            assert_ne!(first.body, ask(&enclave, &format!("/v1/random{query}")).await.body);
        }
    }
    let json = get(&enclave.tcp, "/v1/random?len=5", Some("application/json")).await.0.json();
    assert_eq!(json["random"].as_str().unwrap().len(), 10);
    for query in ["?len=0", "?len=1025", "?len=", "?len=-1", "?len=1e3", "?len=99999999999999999999999"] {
        let answer = ask(&enclave, &format!("/v1/random{query}")).await;
        assert_eq!(answer.refusal(), (400, "parameter_malformed".to_owned()), "{query}");
    }
    let answer = ask(&enclave, "/v1/random?length=5").await;
    assert_eq!(answer.refusal(), (400, "parameter_unknown".to_owned()));
}

#[tokio::test]
async fn it_is_ready_when_the_module_answers() {
    let enclave = Enclave::start().await;
    assert_eq!(ask(&enclave, "/readyz").await.status, 200);
    let broken = Enclave::start_on_module(Refusing, crate::enclave::patient()).await;
    assert_eq!(ask(&broken, "/readyz").await.refusal(), (500, "nsm_failed".to_owned()));
    assert_eq!(ask(&broken, "/healthz").await.status, 200);
}

#[tokio::test]
async fn what_costs_is_bounded_and_documents_go_on() {
    let limits = Limits { budget: 640, budget_per_second: 0, ..crate::enclave::patient() };
    let enclave = Enclave::start_with(limits).await;
    for _ in 0..2 {
        assert_eq!(ask(&enclave, "/v1/pcrs").await.status, 200);
    }
    for path in ["/v1/pcrs", "/v1/nsm", "/v1/random", "/readyz"] {
        let answer = ask(&enclave, path).await;
        assert_eq!(answer.refusal(), (429, "too_many_requests".to_owned()), "{path}");
        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    }
    for path in ["/v1/attestation?nonce=0011223344556677", "/healthz", "/metrics", "/v1/manifest"] {
        assert_eq!(ask(&enclave, path).await.status, 200, "{path}");
    }
}

/// Each path of the description answers the method that it has there, and no other.
#[tokio::test]
async fn the_description_is_of_this_server() {
    let enclave = Enclave::start().await;
    let description = ask(&enclave, "/openapi.json").await.json();
    for (path, item) in description["paths"].as_object().unwrap() {
        let path = path.replace("{tile}", "0/000").replace("{stream}", "egress");
        for method in ["GET", "POST"] {
            let stream =
                connect_tls(&enclave.tcp, tls_config(&[&rustls::version::TLS13]), &[]).await.unwrap();
            let request = Request::builder().method(method).uri(&path).header("host", "localhost");
            let answer = send(stream, request.body(Full::default()).unwrap()).await;
            let described = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.status != 405, described, "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_counters_count_answers_by_path_and_remember_no_others() {
    let enclave = Enclave::start().await;
    for path in ["/healthz", "/healthz", "/v1/attestation", "/invented", "/v1/invented"] {
        ask(&enclave, path).await;
    }
    let metrics = ask(&enclave, "/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for line in [
        r#"glasshouse_answers_total{path="/healthz",status="200"} 2"#,
        r#"glasshouse_answers_total{path="/v1/attestation",status="400"} 1"#,
        "glasshouse_documents_total 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("invented"), "{text}");
}

#[tokio::test]
async fn the_control_channels_transcript_is_shown_entry_by_entry() {
    let enclave = Enclave::start_with_control(&[b"first", b"second"]).await;
    let transcript = ask(&enclave, "/v1/control/transcript").await.json();
    assert_eq!(transcript, json!({"entries": ["Zmlyc3Q=", "c2Vjb25k"], "next": 3}));
    let rest = ask(&enclave, "/v1/control/transcript?from=2&limit=1").await.json();
    assert_eq!(rest, json!({"entries": ["c2Vjb25k"], "next": 3}));
    for query in ["?from=0", "?limit=0", "?limit=1001"] {
        let answer = ask(&enclave, &format!("/v1/control/transcript{query}")).await;
        assert_eq!(answer.refusal(), (400, "parameter_malformed".to_owned()), "{query}");
    }
    let bundle = ask(&enclave, "/v1/bundle?nonce=0011223344556677").await.json();
    assert_eq!(bundle["transcript"], transcript["entries"]);
    let without = Enclave::start().await;
    assert_eq!(ask(&without, "/v1/control/transcript").await.refusal(), (404, "no_control".to_owned()));
}
