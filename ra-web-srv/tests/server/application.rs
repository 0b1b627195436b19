//! What the application asks, and what it is told: docs/spec/application-api.md.

use std::os::unix::fs::PermissionsExt;

use attestation::Sha256;
use attestation::binding::Statement;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::client::{Answer, ask, connect, get};
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

async fn call(enclave: &Enclave, method: &str, path: &str, body: impl Into<hyper::body::Bytes>) -> Answer {
    let request = Request::builder().method(method).uri(path).header("host", "enclave");
    ask(connect(&enclave.api).await, request.body(Full::new(body.into())).unwrap()).await
}

#[tokio::test]
async fn the_key_that_the_application_names_is_in_every_later_document() {
    let enclave = Enclave::start().await;
    assert_eq!(call(&enclave, "GET", "/v1/key", "").await.json(), json!({"sha256": null}));
    for key in [b"first key", b"other key"] {
        let digest = Sha256::of(key);
        let named =
            call(&enclave, "POST", "/v1/key", json!({"public_key": STANDARD.encode(key)}).to_string()).await;
        assert_eq!(named.json(), json!({"sha256": digest.to_string()}));
        let of_server =
            get(&enclave.tcp, "/v1/attestation?nonce=0011223344556677", None).await.0.body.to_vec();
        let of_application = attest(&enclave, json!({})).await;
        for document in [of_server, of_application] {
            let said = Statement::decode(enclave.verify(&document).user_data().unwrap()).unwrap();
            let (Statement::Server { application_key, .. } | Statement::Application { application_key, .. }) =
                said
            else {
                panic!("of the channel")
            };
            assert_eq!(application_key, Some(digest));
        }
    }
    for (body, code) in
        [("{}", "parameter_missing"), (r#"{"public_key": ""}"#, "parameter_missing"), ("", "json_malformed")]
    {
        assert_eq!(call(&enclave, "POST", "/v1/key", body).await.refusal(), (400, code.to_owned()));
    }
}

#[tokio::test]
async fn pcr18_is_the_applications_until_it_is_locked() {
    let enclave = Enclave::start().await;
    let extend = async |data: &[u8]| {
        let body = json!({"data": STANDARD.encode(data)}).to_string();
        call(&enclave, "POST", "/v1/pcr18/extend", body).await
    };
    let first = extend(b"one").await.json();
    assert_eq!(first["locked"], false);
    let second = extend(b"two").await.json();
    assert_ne!(first["value"], second["value"]);
    assert_eq!(extend(&[0; 1025]).await.refusal(), (400, "field_length".to_owned()));
    let pcr18 = attestation::PcrIndex::new(18).unwrap();
    assert_eq!(enclave.verify(&attest(&enclave, json!({})).await).pcrs().get(&pcr18), None);
    let locked = call(&enclave, "POST", "/v1/pcr18/lock", "").await.json();
    assert_eq!(locked, json!({"value": second["value"], "locked": true}));
    let verified = enclave.verify(&attest(&enclave, json!({})).await);
    assert_eq!(verified.pcrs()[&pcr18].to_string(), second["value"].as_str().unwrap());
    assert_eq!(extend(b"three").await.refusal(), (409, "pcr_locked".to_owned()));
    assert_eq!(call(&enclave, "POST", "/v1/pcr18/lock", "").await.refusal(), (409, "pcr_locked".to_owned()));
}

#[tokio::test]
async fn what_is_appended_goes_to_the_applications_stream_and_no_other() {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let closed = call(&enclave, "POST", "/v1/ledger/stream/log", "entry").await;
    assert_eq!(closed.refusal(), (503, "ledger_unavailable".to_owned()));
    let _serving = ledger.serve();
    let appended = call(&enclave, "POST", "/v1/ledger/stream/log", "entry").await;
    assert_eq!(appended.json(), json!({"index": 9, "sequence": 0, "said": "entry"}));
    let read = call(&enclave, "GET", "/v1/ledger/stream/log?from=2&limit=5", "").await;
    assert_eq!(read.json(), json!({"entries": [], "next": 2}));
    assert_eq!(call(&enclave, "GET", "/v1/ledger/checkpoint", "").await.json()["size"], 9);
    let proof = call(&enclave, "GET", "/v1/ledger/stream/log/proof?at=9", "").await;
    assert_eq!((proof.status.as_u16(), &proof.body[..]), (200, &b"stream at 9"[..]));
    let unnamed = call(&enclave, "GET", "/v1/ledger/stream/log/proof", "").await;
    assert_eq!(unnamed.refusal(), (400, "parameter_missing".to_owned()));
    let longest = call(&enclave, "POST", "/v1/ledger/stream/log", vec![b'x'; 64 << 10]).await;
    assert_eq!(longest.status, 200);
    let asked = ledger.asked.lock().unwrap().len();
    for (path, body, status, code) in [
        ("/v1/ledger/stream/log", vec![b'x'; (64 << 10) + 1], 413, "body_too_large"),
        ("/v1/ledger/stream/Log", vec![], 400, "stream_malformed"),
        ("/v1/ledger/stream/..", vec![], 400, "stream_malformed"),
        ("/v1/ledger/stream/%2e%2e%2fegress", vec![], 400, "stream_malformed"),
        ("/v1/ledger/stream/a%20b", vec![], 400, "stream_malformed"),
        ("/v1/ledger/stream/app/log", vec![], 404, "no_such_path"),
    ] {
        assert_eq!(call(&enclave, "POST", path, body).await.refusal(), (status, code.to_owned()), "{path}");
    }
    assert_eq!(ledger.asked.lock().unwrap().len(), asked, "none of these reached the ledger");
    let without = Enclave::start().await;
    assert_eq!(
        call(&without, "POST", "/v1/ledger/stream/log", "x").await.refusal(),
        (404, "no_ledger".to_owned())
    );
}

#[tokio::test]
async fn the_applications_documents_state_the_ledger_whatever_it_says() {
    let (enclave, ledger) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    assert_eq!(post(&enclave, "{}").await.refusal(), (503, "ledger_unavailable".to_owned()));
    let _serving = ledger.serve();
    let verified = enclave.verify(&attest(&enclave, json!({"data": "aGk="})).await);
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert_eq!(said.ledger(), Some(&crate::ledger::stated()));
}

/// dstack's calls, as its SDKs make them: docs/spec/dstack.md.
#[tokio::test]
async fn calls_of_the_dstack_agent_are_answered() {
    let enclave = Enclave::start().await;
    let quote = call(&enclave, "POST", "/GetQuote", r#"{"report_data":"0102"}"#).await.json();
    let report_data = [&[1, 2][..], &[0; 62]].concat();
    assert_eq!(quote["report_data"], hex::encode(&report_data));
    let verified = enclave.verify(&hex::decode(quote["quote"].as_str().unwrap()).unwrap());
    assert_eq!(verified.nonce(), Some(&report_data[..]));
    assert_eq!(verified.user_data().unwrap(), application_statement(&report_data).encode());
    let queried = call(&enclave, "GET", "/GetQuote?report_data=0102", "").await.json();
    assert_eq!(queried["report_data"], quote["report_data"]);
    assert_eq!(queried["event_log"], "[]");
    let attested = call(&enclave, "POST", "/Attest", r#"{"report_data":""}"#).await.json();
    let verified = enclave.verify(&hex::decode(attested["attestation"].as_str().unwrap()).unwrap());
    assert_eq!(verified.nonce(), Some(&[0; 64][..]));
    let tagged = json!({"report_data": hex::encode("test content")}).to_string();
    let tagged = call(&enclave, "POST", "/prpc/Tappd.TdxQuote?json", tagged).await.json();
    assert_eq!((&tagged["hash_algorithm"], &tagged["prefix"]), (&json!("sha512"), &json!("app-data")));
    let verified = enclave.verify(&hex::decode(tagged["quote"].as_str().unwrap()).unwrap());
    assert!(hex::encode(verified.nonce().unwrap()).starts_with("7ea0b744ed5e9c0c83ff9f575668e169"));

    let first = call(&enclave, "POST", "/GetKey", r#"{"path":"wallet","purpose":"ethereum"}"#).await.json();
    let again = call(&enclave, "GET", "/GetKey?path=wallet&purpose=ethereum", "").await.json();
    assert_eq!(first, again);
    assert_eq!(first["key"].as_str().unwrap().len(), 64);

    let info = call(&enclave, "POST", "/Info", "").await.json();
    assert_eq!(info["app_name"], "an-agent");
    let tcb: Value = serde_json::from_str(info["tcb_info"].as_str().unwrap()).unwrap();
    assert_eq!((&tcb["mrtd"], &tcb["compose_hash"]), (&json!("01".repeat(48)), &info["compose_hash"]));
    assert!(info["key_provider_info"].as_str().unwrap().contains("none"));
    assert_eq!(call(&enclave, "GET", "/Version", "").await.status, 200);
}

#[tokio::test]
async fn the_dstack_agents_refusals_have_its_form() {
    let enclave = Enclave::start().await;
    for (path, body) in [
        ("/GetQuote", r#"{"report_data":"zz"}"#.to_owned()),
        ("/GetQuote", json!({"report_data": "00".repeat(65)}).to_string()),
        ("/GetQuote", r#"{"report_data":7}"#.to_owned()),
        ("/GetQuote", "[]".to_owned()),
        ("/GetKey", r#"{"algorithm":"rsa"}"#.to_owned()),
        ("/prpc/Tappd.TdxQuote", r#"{"hash_algorithm":"md5"}"#.to_owned()),
        ("/prpc/Tappd.TdxQuote", r#"{"hash_algorithm":"raw","report_data":"00"}"#.to_owned()),
    ] {
        let answer = call(&enclave, "POST", path, body.clone()).await;
        assert_eq!(answer.status, 400, "{path} {body}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty(), "{path} {body}");
    }
}
