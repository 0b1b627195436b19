//! Many verifiers at once on a module that is slow: docs/spec/nonce-batch.md.
//!
//! The module stands still until every question of a test is in the server, so that what is counted does not depend on
//! who was faster.

use std::time::Duration;

use ::attestation::batch::NoncePath;
use ::attestation::binding::Statement;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ra_web_srv::Limits;
use tokio::task::JoinSet;
use transport::Addr;

use crate::client::{Answer, PATIENCE, get, until};
use crate::enclave::{Enclave, Held, server_statement};

/// A verifier number `number`, who reads paths if `json`.
async fn verifier(addr: Addr, number: u64, json: bool) -> (Vec<u8>, Answer) {
    let nonce = number.to_be_bytes().to_vec();
    let path = format!("/v1/attestation?nonce={}", hex::encode(&nonce));
    (nonce, get(&addr, &path, json.then_some("application/json")).await.0)
}

async fn waiting(enclave: &Enclave) -> u64 {
    let metrics = get(&enclave.tcp, "/metrics", None).await.0;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("glasshouse_waiting ")).unwrap();
    line.parse().unwrap()
}

pub(crate) async fn until_waiting(enclave: &Enclave, count: u64) {
    let counted = async {
        while waiting(enclave).await != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("not as many wait as should");
}

/// The path of an answer in JSON, which is checked as a verifier does.
fn check(enclave: &Enclave, nonce: &[u8], answer: &Answer) -> Option<NoncePath> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["nonce"], hex::encode(nonce));
    let path: Option<NoncePath> =
        json.get("batch").map(|batch| serde_json::from_value(batch.clone()).unwrap());
    let verified = enclave.verify(&STANDARD.decode(json["document"].as_str().unwrap()).unwrap());
    let expected = path.as_ref().map_or(nonce.to_vec(), |path| path.root(nonce).unwrap().0.to_vec());
    assert_eq!(verified.nonce(), Some(&expected[..]));
    let said = Statement::decode(verified.user_data().unwrap()).unwrap();
    assert_eq!(said, server_statement(enclave.key_digest));
    path
}

#[tokio::test]
async fn all_who_waited_share_one_document_each_with_a_path_of_its_own() {
    let (enclave, module) = Enclave::start_gated(crate::enclave::patient()).await;
    let first = tokio::spawn(verifier(enclave.tcp.clone(), 1000, true));
    until(|| module.asked() == 1).await;
    let mut others = JoinSet::new();
    for number in 0..60 {
        others.spawn(verifier(enclave.tcp.clone(), number, true));
    }
    until_waiting(&enclave, 60).await;
    module.release();

    let (nonce, answer) = first.await.unwrap();
    assert_eq!(check(&enclave, &nonce, &answer), None, "whoever is alone has its own nonce in the document");
    let mut places = Vec::new();
    for (nonce, answer) in others.join_all().await {
        let path = check(&enclave, &nonce, &answer).unwrap();
        assert_eq!(path.size, 60);
        places.push(path.index);
    }
    places.sort_unstable();
    assert_eq!(places, (0..60).collect::<Vec<_>>());
    assert_eq!(module.asked(), 2);
}

/// Scripts that save the message and compare its nonce were there before batches, and stay right.
#[tokio::test]
async fn whoever_reads_no_path_never_shares() {
    let (enclave, module) = Enclave::start_gated(crate::enclave::patient()).await;
    let first = tokio::spawn(verifier(enclave.tcp.clone(), 1000, false));
    until(|| module.asked() == 1).await;
    let (mut alone, mut sharing) = (JoinSet::new(), JoinSet::new());
    for number in 0..3 {
        alone.spawn(verifier(enclave.tcp.clone(), number, false));
    }
    for number in 10..15 {
        sharing.spawn(verifier(enclave.tcp.clone(), number, true));
    }
    until_waiting(&enclave, 8).await;
    module.release();
    let mut answers = alone.join_all().await;
    answers.push(first.await.unwrap());
    for (nonce, answer) in answers {
        assert_eq!(enclave.verify(&answer.body).nonce(), Some(&nonce[..]));
    }
    for (nonce, answer) in sharing.join_all().await {
        assert_eq!(check(&enclave, &nonce, &answer).unwrap().size, 5);
    }
    // The first, three alone, and one for all five.
    assert_eq!(module.asked(), 5);
}

#[tokio::test]
async fn one_more_than_may_wait_is_a_503_at_once() {
    let limits = Limits { shared_nonces: 2, ..crate::enclave::patient() };
    let (enclave, module) = Enclave::start_gated(limits).await;
    let mut asked = JoinSet::new();
    asked.spawn(verifier(enclave.tcp.clone(), 0, true));
    until(|| module.asked() == 1).await;
    for number in 1..4 {
        asked.spawn(verifier(enclave.tcp.clone(), number, true));
    }
    let (_, refused) = asked.join_next().await.unwrap().unwrap();
    assert_eq!(refused.refusal(), (503, "nsm_busy".to_owned()));
    module.release();
    for (nonce, answer) in asked.join_all().await {
        check(&enclave, &nonce, &answer);
    }
    assert_eq!(module.asked(), 2);
}

#[tokio::test]
async fn what_fails_fails_for_all_who_share_it() {
    let module = Held::default();
    let limits = Limits { nsm_answer: Duration::from_millis(200), ..crate::enclave::patient() };
    let enclave = Enclave::start_on_module(module.clone(), limits).await;
    let mut asked = JoinSet::new();
    for number in 0..5 {
        asked.spawn(verifier(enclave.tcp.clone(), number, true));
    }
    for (_, answer) in asked.join_all().await {
        assert_eq!(answer.refusal(), (503, "nsm_busy".to_owned()));
    }
    module.release();
}
