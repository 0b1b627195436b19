//! The ledger of a monitor that watches real files, seen through this server as a verifier sees it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ::attestation::binding::{self, Statement};
use ::attestation::bundle::{Bundle, ProofKind};
use ::ledger::{Algorithm, Anchor, Baseline, Checkpoint, FileNow, Hash, State, StreamPayload, log};
use clap::Parser;
use http_body_util::Full;
use hyper::Request;
use serde_json::Value;

use crate::client::{PATIENCE, ask, connect, get};
use crate::enclave::Enclave;

const NONCE: &str = "000102030405060708090a0b0c0d0e0f";

/// Has `/app` below `base` watched, by a thread that ends with the tests.
pub(crate) fn watch(base: &Path, socket: &Path) {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let state = base.join("state");
    let words = [
        "fs-monitor",
        "run",
        "--roots",
        "/app",
        "--digest",
        "sha3-512",
        "--sweep",
        "0",
        "--base",
        &text(base),
        "--state",
        &text(&state),
        "--socket",
        &text(socket),
    ]
    .map(str::to_owned);
    std::thread::spawn(move || fs_monitor::cli::run(fs_monitor::cli::Args::parse_from(words)));
}

pub(crate) async fn until_scanned(enclave: &Enclave) {
    let scanned = async {
        while get(&enclave.tcp, "/v1/ledger/baseline", None).await.0.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, scanned).await.expect("the first scan does not end");
}

async fn append(enclave: &Enclave, payload: &'static str) -> Value {
    let request = Request::post("/v1/ledger/stream/log").header("host", "enclave");
    ask(connect(&enclave.api).await, request.body(Full::from(payload)).unwrap()).await.json()
}

fn anchor(stated: &binding::Ledger) -> Anchor {
    let (log_root, map_root) = (Hash(stated.log_root.0), Hash(stated.map_root.0));
    Anchor::new(Checkpoint { size: stated.size, log_root, map_root }, &stated.vrf_key).unwrap()
}

fn sha3(anchor: &Anchor, path: &str, proof: &[u8]) -> Option<Vec<u8>> {
    let FileNow::Recorded(observation) = anchor.verify_file(path.as_bytes(), proof).unwrap() else {
        return None;
    };
    let State::Present(_, ::ledger::Content::File { digests, .. }) = observation.record.state else {
        return None;
    };
    Some(digests.of(Algorithm::Sha3_512).unwrap().to_vec())
}

#[tokio::test]
async fn a_bundle_proves_what_the_monitor_saw() {
    let (enclave, fake) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let base = enclave.dir.path();
    fs::create_dir(base.join("app")).unwrap();
    fs::write(base.join("app/model c++"), "weights").unwrap();
    watch(base, &fake.socket);
    until_scanned(&enclave).await;
    assert_eq!(append(&enclave, "first").await["sequence"], 0);
    assert_eq!(append(&enclave, "second").await["sequence"], 1);

    let question = "file=/app/model%20c++&file=/app/never&history=/app/model%20c++&stream=app/log";
    let answer = get(&enclave.tcp, &format!("/v1/bundle?nonce={NONCE}&{question}"), None).await.0;
    let bundle = Bundle::decode(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let verified = enclave.verify(&bundle.document.0);
    let statement = Statement::decode(verified.user_data().unwrap()).unwrap();
    let anchor = anchor(statement.ledger().unwrap());
    let [now, never, history, stream] = &bundle.proofs[..] else { panic!("{:?}", bundle.proofs) };

    let digest = sha3(&anchor, "/app/model c++", &now.proof.0).unwrap();
    let shown = get(&enclave.tcp, "/hash/?path=/app/model%20c++", None).await.0.json();
    assert_eq!(shown["sha3_hash"], hex::encode(digest));
    assert_eq!(anchor.verify_file(b"/app/never", &never.proof.0).unwrap(), FileNow::Never);
    assert_eq!(anchor.verify_history(b"/app/model c++", &history.proof.0).unwrap().len(), 1);
    assert_eq!(stream.kind, ProofKind::Stream);
    let end = anchor.verify_stream(&"app/log".parse().unwrap(), &stream.proof.0).unwrap();
    assert!(end.is_complete());
    let payloads: Vec<_> = end.entries.iter().map(|entry| &entry.payload).collect();
    let bytes = |text: &str| StreamPayload::Bytes(text.as_bytes().to_vec());
    assert_eq!(payloads, [&bytes("first"), &bytes("second")]);

    let baseline = Baseline::decode(&bundle.baseline.unwrap().0).unwrap();
    let [grown] = &bundle.consistency[..] else { panic!("{:?}", bundle.consistency) };
    let hashes: Vec<_> = grown.hashes.iter().map(|hash| Hash(hash.0)).collect();
    let (old, new) = (&baseline.checkpoint, anchor.checkpoint());
    log::verify_consistency(old.size, &old.log_root, new.size, &new.log_root, &hashes).unwrap();
}

#[tokio::test]
async fn what_the_monitor_shows_the_world_is_shown() {
    let (enclave, fake) = Enclave::start_with_ledger(crate::enclave::patient()).await;
    let base = enclave.dir.path();
    fs::create_dir(base.join("app")).unwrap();
    fs::write(base.join("app/a"), "a").unwrap();
    watch(base, &fake.socket);
    until_scanned(&enclave).await;
    let size = get(&enclave.tcp, "/v1/ledger/checkpoint", None).await.0.json()["size"].as_u64().unwrap();
    assert!(size > 0);
    for path in [
        "/v1/ledger/checkpoint.note",
        "/v1/ledger/tlog/checkpoint",
        &format!("/v1/ledger/tlog/tile/0/000.p/{size}"),
        "/v1/ledger/entries?from=0&limit=1",
        "/v1/ledger/file/record?path=/app/a",
        "/v1/ledger/file/proof?path=/app/a",
        "/v1/ledger/file/history?path=/app/a",
        &format!("/v1/ledger/file/record?path=/app/a&at={size}"),
        &format!("/v1/ledger/file/proof?path=/app/a&at={size}"),
        &format!("/v1/ledger/consistency?from=1&to={size}"),
        &format!("/v1/ledger/tile/0/000.p/{size}"),
        "/v1/ledger/stream/ledger/proof",
        "/ready/?path=/app/a",
        "/readyz",
    ] {
        let answer = get(&enclave.tcp, path, None).await.0;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    // What the monitor does is for who is inside.
    let status = Request::get("/v1/ledger/status").header("host", "enclave").body(Full::default()).unwrap();
    let status = ask(connect(&enclave.api).await, status).await.json();
    assert_eq!((&status["state"], &status["enforce"]), (&"watching".into(), &"off".into()), "{status}");
    assert_eq!(get(&enclave.tcp, "/v1/ledger/status", None).await.0.status, 404);
    let gone = get(&enclave.tcp, "/v1/ledger/file/record?path=/app/never", None).await.0;
    assert_eq!(gone.refusal(), (404, "ledger_refused".to_owned()));
    let missing = get(&enclave.tcp, "/hash/?path=/app/never", None).await.0;
    assert_eq!(missing.refusal(), (404, "no_such_file".to_owned()));
}
