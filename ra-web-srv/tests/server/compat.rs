//! The commands of an earlier framework, over a genuine ledger: docs/spec/compat-api.md.

use std::path::Path;
use std::sync::Arc;

use ::attestation::binding::Statement;
use ::ledger::store::{Event, Ledger, Options};
use ::ledger::{Algorithm, Attributes, Cause, Content, Digests, Record, State as FileState};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::routing::get as on_get;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::client::{Answer, ask as send, connect_tls, get, tls_config};
use crate::enclave::Enclave;

const NONCE: &str = "000102030405060708090a0b0c0d0e0f";

/// A ledger with `/app/model` (SHA3-512 of 64 times 0xab), `/app/plain` (BLAKE3 only) and `/app/gone` (removed).
fn ledger(folder: &Path) -> Ledger {
    let ledger = Ledger::open(&folder.join("ledger.redb"), 1, Options::default()).unwrap();
    let attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
    let present = |digests| FileState::Present(attributes, Content::File { size: 3, digests });
    let event = |path: &str, state| Event::File {
        file: ledger.file(path.as_bytes().to_vec()).unwrap(),
        record: Record { cause: Cause::Scan, state },
    };
    let events = vec![
        event("/app/model", present(Digests::new().with(Algorithm::Sha3_512, &[0xab; 64]))),
        event("/app/plain", present(Digests::new().with(Algorithm::Blake3, &[1; 32]))),
        event("/app/gone", present(Digests::new().with(Algorithm::Sha3_512, &[2; 64]))),
    ];
    ledger.append(2, events).unwrap();
    ledger.append(3, vec![event("/app/gone", FileState::Removed)]).unwrap();
    ledger
}

async fn checkpoint(State(ledger): State<Arc<Ledger>>) -> axum::Json<Value> {
    let checkpoint = ledger.checkpoint();
    axum::Json(json!({
        "size": checkpoint.size, "log_root": hex::encode(checkpoint.log_root.0),
        "map_root": hex::encode(checkpoint.map_root.0), "vrf_key": hex::encode(ledger.vrf_key()),
    }))
}

async fn file_proof(State(ledger): State<Arc<Ledger>>, RawQuery(query): RawQuery) -> Vec<u8> {
    let query = query.unwrap();
    let (path, at) = query.strip_prefix("path=").unwrap().split_once("&at=").unwrap();
    ledger.prove_file(path.as_bytes(), Some(at.parse().unwrap())).unwrap()
}

async fn start() -> (Enclave, JoinHandle<()>) {
    let (enclave, fake) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let ledger = Arc::new(ledger(enclave.dir.path()));
    let listener = UnixListener::bind(&fake.socket).unwrap();
    let router = Router::new()
        .route("/v1/checkpoint", on_get(checkpoint))
        .route("/v1/file/proof", on_get(file_proof))
        .with_state(ledger);
    (enclave, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

async fn ask(enclave: &Enclave, path: &str) -> Answer {
    let answer = get(&enclave.tcp, path, None).await.0;
    assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    answer
}

async fn post(enclave: &Enclave, path: &str, body: impl ToString) -> Answer {
    let stream = connect_tls(&enclave.tcp, tls_config(&[&rustls::version::TLS13]), &[]).await.unwrap();
    let request = Request::post(path).header("host", "localhost");
    send(stream, request.body(Full::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn the_commands_of_a_file_work_as_printed() {
    let (enclave, _serving) = start().await;
    let digest = "ab".repeat(64);
    let generated = post(&enclave, "/generate", json!({"path": "/app/model"})).await;
    assert_eq!((generated.status.as_u16(), generated.json()["path"].as_str()), (202, Some("/app/model")));
    let ready = ask(&enclave, "/ready/?path=/app/model").await.json();
    assert_eq!(ready, json!({"file_path": "/app/model", "sha3_hash": digest, "status": "Ready"}));
    let hash = ask(&enclave, "/hash/?path=/app/model").await.json();
    assert_eq!(hash, json!({"file_path": "/app/model", "sha3_hash": digest}));
    let proof = ask(&enclave, "/proof/?path=/app/model").await.json();
    assert_eq!(proof["sha3_hash"], digest);
    assert_eq!(proof["vrf_cipher_suite"], "ECVRF-EDWARDS25519-SHA512-TAI");
    assert_eq!(proof["vrf_proof"].as_str().unwrap().len(), 160);
    let valid =
        post(&enclave, "/verify_hash/", json!({"file_path": "/app/model", "sha3_hash": digest})).await;
    assert_eq!((&valid.json()["valid"], &valid.json()["computed_hash"]), (&json!(true), &json!(digest)));
    let other = json!({"file_path": "/app/model", "sha3_hash": "ac".repeat(64)});
    assert_eq!(post(&enclave, "/verify_hash/", other).await.json()["valid"], false);
}

#[tokio::test]
async fn a_document_is_shown_in_every_view() {
    let (enclave, _serving) = start().await;
    let doc = async |view: &str| {
        let path = format!("/doc/?path=/app/model&nonce={NONCE}&view={view}");
        ask(&enclave, &path).await.json()
    };
    let message = hex::decode(doc("bin_hex").await["att_doc"].as_str().unwrap()).unwrap();
    let verified = enclave.verify(&message);
    assert_eq!(hex::encode(verified.nonce().unwrap()), NONCE);
    let members = doc("json_hex").await;
    assert_eq!(members["nonce"], NONCE);
    assert_eq!(members["att_doc"]["nonce"], NONCE);
    assert_eq!(members["att_doc"]["pcrs"]["0"], "01".repeat(48));
    let said = verified.user_data().unwrap();
    assert_eq!(members["att_doc"]["user_data"], hex::encode(said));
    let Some(stated) = Statement::decode(said).unwrap().ledger().copied() else { panic!("no ledger") };
    let proven_for = &members["ledger"];
    assert_eq!(
        (&proven_for["size"], &proven_for["map_root"]),
        (&json!(stated.size), &json!(stated.map_root))
    );
    let text = doc("json_str").await;
    let parsed: Value = serde_json::from_str(text["att_doc"].as_str().unwrap()).unwrap();
    assert_eq!(parsed["module_id"], members["att_doc"]["module_id"]);
    assert_eq!(doc("pcrs").await["att_doc"]["1"], "02".repeat(48));
    let payload = doc("att_doc").await["att_doc"].as_str().unwrap().to_owned();
    assert!(
        hex::encode(&message).contains(&payload[..200]) || payload.contains("6d6f64756c655f6964"),
        "{payload}"
    );
    for view in ["json_debug", "debug", "debug_pretty_print"] {
        assert!(doc(view).await["att_doc"].as_str().unwrap().contains("i-0123456789abcdef0"), "{view}");
    }
    let refused = ask(&enclave, "/doc/?path=/app/model&view=xml").await;
    assert_eq!(refused.refusal(), (400, "parameter_malformed".to_owned()));
}

/// The guides ask without a nonce. What they get says that it is not fresh, and its nonce is one that nobody drew.
#[tokio::test]
async fn a_document_without_a_nonce_says_what_it_is() {
    let (enclave, _serving) = start().await;
    let first = ask(&enclave, "/doc/?path=/app/model").await.json();
    let second = ask(&enclave, "/doc/?path=/app/model").await.json();
    assert_eq!(first["nonce"], second["nonce"]);
    assert!(first["note"].as_str().unwrap().contains("not fresh"), "{first}");
    let fresh = ask(&enclave, &format!("/doc/?path=/app/model&nonce={NONCE}")).await.json();
    assert!(!fresh["note"].as_str().unwrap().contains("not fresh"), "{fresh}");
}

#[tokio::test]
async fn a_proof_is_valid_as_it_was_shown_and_with_no_byte_changed() {
    let (enclave, _serving) = start().await;
    let shown =
        ask(&enclave, &format!("/doc/?path=/app/model&view=att_doc_user_data&nonce={NONCE}")).await.json();
    let valid =
        async |question: &Value| post(&enclave, "/verify_proof/", question).await.json()["valid"].clone();
    assert_eq!(valid(&shown["att_doc"]).await, true);
    let data = hex::decode(shown["att_doc"]["user_data"].as_str().unwrap()).unwrap();
    let key = shown["att_doc"]["public_key"].as_str().unwrap();
    // Every byte of the JSON would be a thousand requests; each member is hit, and the spelling.
    for (place, bit) in (0..data.len()).step_by(31).zip([1, 32, 2].into_iter().cycle()) {
        let mut changed = data.clone();
        changed[place] ^= bit;
        let question = json!({"user_data": hex::encode(changed), "public_key": key});
        assert_eq!(
            valid(&question).await,
            false,
            "byte {place}: {}",
            String::from_utf8_lossy(&data[place..])
        );
    }
    let spaced = [&data[..1], b" ", &data[1..]].concat();
    assert_eq!(valid(&json!({"user_data": hex::encode(spaced), "public_key": key})).await, false);
    let mut other_key = hex::decode(key).unwrap();
    other_key[0] ^= 1;
    let question = json!({"user_data": hex::encode(&data), "public_key": hex::encode(other_key)});
    assert_eq!(valid(&question).await, false);
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let (enclave, _serving) = start().await;
    for path in ["/ready/", "/hash/", "/proof/", "/doc/"] {
        for (query, status, code) in [
            ("?path=/app/never", 404, "no_such_file"),
            ("?path=/app/gone", 404, "no_such_file"),
            ("?path=/app/plain", 404, "no_digest"),
            ("?path=../app/model", 400, "path_malformed"),
            ("?path=/app/%ff", 400, "path_malformed"),
            ("?path=", 400, "parameter_missing"),
            ("", 400, "parameter_missing"),
        ] {
            let answer = ask(&enclave, &format!("{path}{query}")).await;
            assert_eq!(answer.refusal(), (status, code.to_owned()), "{path}{query}");
        }
    }
    for (body, status, code) in [
        (json!({"path": "/app/never"}).to_string(), 404, "no_such_file"),
        (json!({"path": "/proc/../etc"}).to_string(), 400, "path_malformed"),
        (json!({"file": "/app"}).to_string(), 400, "json_malformed"),
        ("path=/app".to_owned(), 400, "json_malformed"),
        (" ".repeat(256 * 1024 + 1), 413, "body_too_large"),
    ] {
        assert_eq!(post(&enclave, "/generate", body).await.refusal(), (status, code.to_owned()));
    }
}

#[tokio::test]
async fn without_a_ledger_there_are_no_files() {
    let enclave = Enclave::start().await;
    for path in ["/ready/?path=/a", "/hash/?path=/a", "/proof/?path=/a", "/doc/?path=/a"] {
        assert_eq!(ask(&enclave, path).await.refusal(), (404, "no_ledger".to_owned()), "{path}");
    }
    let keys = ask(&enclave, "/pubkeys/").await.json();
    assert_eq!(keys["pubkey4proofs"], Value::Null);
}

#[tokio::test]
async fn the_module_and_the_keys_are_shown() {
    let (enclave, _serving) = start().await;
    let pcrs = ask(&enclave, "/pcrs/").await.json();
    assert_eq!(pcrs["pcrs"]["2"], "03".repeat(48));
    let module = ask(&enclave, "/nsm_desc").await.json();
    assert_eq!((&module["digest"], &module["max_pcrs"]), (&json!("SHA384"), &json!(32)));
    let random = ask(&enclave, "/rng_seq?length=16").await.json();
    assert_eq!((&random["length"], random["random_hex"].as_str().unwrap().len()), (&json!(16), 32));
    let many = ask(&enclave, "/rng_seq?length=1025").await;
    assert_eq!(many.refusal(), (400, "parameter_malformed".to_owned()));
    let keys = ask(&enclave, "/pubkeys/").await.json();
    assert!(
        keys["pubkey4proofs"].as_str().unwrap().starts_with("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA")
    );
    let der = ask(&enclave, "/pubkeys/?view=hex&fmt=der").await.json();
    let tls_key = hex::decode(der["pubkey4docs"].as_str().unwrap()).unwrap();
    assert_eq!(::attestation::Sha256::of(&tls_key), enclave.key_digest);
    let provided = json!({"pcrs": format!("0: {}, 1: {}", "01".repeat(48), "02".repeat(48))});
    assert_eq!(post(&enclave, "/verify_pcrs/", provided).await.json()["valid"], true);
    for wrong in [format!("0: {}", "02".repeat(48)), "0: 01".to_owned(), "PCR0".to_owned(), String::new()] {
        let answer = post(&enclave, "/verify_pcrs/", json!({"pcrs": wrong})).await.json();
        assert_eq!(answer["valid"], false, "{answer}");
    }
}

/// What a simulated module signed is not signed under AWS's root, and nothing here says otherwise.
#[tokio::test]
async fn what_judges_says_that_it_proves_nothing() {
    let (enclave, _serving) = start().await;
    let shown = ask(&enclave, "/doc/?path=/app/model&view=bin_hex").await.json();
    let question = json!({"cose_doc_bytes": shown["att_doc"]});
    for (path, member) in [
        ("/verify_doc/", "valid"),
        ("/verify_cert_valid/", "signature_valid"),
        ("/verify_cert_bundle/", "valid"),
    ] {
        let answer = post(&enclave, path, &question).await.json();
        assert_eq!(answer[member], false, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("proves nothing"), "{answer}");
    }
    let genuine = include_bytes!("../../../crates/attestation/testdata/evervault_valid.cose");
    let question = json!({"cose_doc_bytes": hex::encode(genuine)});
    assert_eq!(post(&enclave, "/verify_doc/", &question).await.json()["valid"], true);
    let certificate = post(&enclave, "/verify_cert_valid/", &question).await.json();
    assert_eq!((&certificate["signature_valid"], &certificate["time_valid"]), (&json!(true), &json!(false)));
    let garbage = json!({"cose_doc_bytes": "00"});
    assert_eq!(post(&enclave, "/verify_doc/", garbage).await.json()["valid"], false);
    let no_hex = post(&enclave, "/verify_doc/", json!({"cose_doc_bytes": "zz"})).await;
    assert_eq!(no_hex.refusal(), (400, "field_not_hex".to_owned()));
}
