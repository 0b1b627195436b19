//! The agent's log: handed from one start to the next, and remembered by the enclave's ledger.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tee_agent::{
    anchoring::Anchoring,
    evidence::{Asking, EnclaveError, Evidence, Place, Question},
    log::{Kept, Log, OpenError, Options},
};
use tee_log::{SignedEntry, Verifier, anchors, key_statement, store::Query};
use tokio::sync::oneshot;

/// An enclave that says what it was asked to attest, and remembers what is appended, but for the first time.
#[derive(Debug, Default)]
struct Enclave {
    appended: Mutex<Vec<Vec<u8>>>,
    refused: Mutex<u32>,
}

impl Enclave {
    fn appended(&self) -> Vec<Vec<u8>> {
        self.appended.lock().unwrap().clone()
    }
}

impl Evidence for Enclave {
    fn attest(&self, question: Question) -> Asking<'_, String> {
        Box::pin(async move { Ok(hex::encode(question.data)) })
    }

    fn append<'a>(&'a self, stream: &'a str, payload: Vec<u8>) -> Asking<'a, Place> {
        Box::pin(async move {
            assert_eq!(stream, "tee-log");
            let mut refused = self.refused.lock().unwrap();
            if *refused == 0 {
                *refused += 1;
                return Err(EnclaveError::Slow);
            }
            let mut appended = self.appended.lock().unwrap();
            appended.push(payload);
            Ok(Place { index: 9, sequence: appended.len() as u64 - 1 })
        })
    }

    fn stream_proof<'a>(&'a self, _: &'a str, _: u64) -> Asking<'a, Vec<u8>> {
        Box::pin(async { Err(EnclaveError::Slow) })
    }
}

fn options(kept: &Kept) -> Options {
    Options { kept: Some(kept.clone()), ..Options::default() }
}

/// Verifies all entries of a log against what was anchored.
fn verified(log: &Log, enclave: &Enclave) -> Verifier {
    let payloads = enclave.appended();
    let mut verifier = Verifier::with_anchors(anchors(payloads.iter().map(Vec::as_slice)).unwrap());
    for row in &log.shared().query(&Query::default(), 1, 1000).unwrap().data {
        verifier.push(&SignedEntry::try_from(row).unwrap()).unwrap();
    }
    verifier
}

/// One start of an agent, up to its end.
async fn live(kept: &Kept, enclave: &Arc<Enclave>, closes: bool) -> Log {
    let log = Log::open("agent", &options(kept), &**enclave).await.unwrap();
    let (ending, end) = oneshot::channel();
    let anchoring = tokio::spawn(Anchoring::new(log.clone(), enclave.clone()).run(end));
    for number in 0..5 {
        log.record("room", "user", "Action:X", &json!(number)).unwrap();
    }
    if closes {
        log.close().unwrap();
    }
    drop(ending);
    tokio::time::timeout(Duration::from_secs(60), anchoring).await.unwrap().unwrap();
    log
}

#[tokio::test]
async fn a_start_hands_the_log_over_and_the_ledger_remembers_where() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept { file: dir.path().join("state/log"), key: None };
    let enclave = Arc::new(Enclave::default());
    drop(live(&kept, &enclave, true).await);
    let key = dir.path().join("state/log.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // It ends as a process that is killed does.
    drop(live(&kept, &enclave, false).await);
    let log = live(&kept, &enclave, true).await;

    let verifier = verified(&log, &enclave);
    assert_eq!(verifier.shows_all_anchored(), Ok(()));
    assert_eq!(verifier.position().sequence, 20);
    let lives = verifier.lives();
    assert_eq!(lives.iter().map(|life| life.closed).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(lives.iter().map(|life| life.opened.sequence).collect::<Vec<_>>(), [0, 7, 13]);
    for (agent, life) in log.shared().agents().iter().zip(lives) {
        assert_eq!(agent.attestation, hex::encode(key_statement(&life.opened)));
    }
    let all = enclave.appended();
    let all = anchors(all.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(all.last().unwrap().position, verifier.position());
    // Entries share anchors.
    assert!(all.len() < 20, "{}", all.len());
}

#[tokio::test]
async fn a_log_that_begins_again_is_not_the_one_that_the_ledger_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let enclave = Arc::new(Enclave::default());
    drop(live(&Kept { file: dir.path().join("one/log"), key: None }, &enclave, true).await);
    drop(live(&Kept { file: dir.path().join("two/log"), key: None }, &enclave, true).await);
    let payloads = enclave.appended();
    let broken = anchors(payloads.iter().map(Vec::as_slice)).unwrap_err();
    assert!(broken.to_string().contains("takes back"), "{broken}");
}

#[tokio::test]
async fn another_key_or_none_does_not_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept { file: dir.path().join("log"), key: None };
    let enclave = Arc::new(Enclave::default());
    drop(live(&kept, &enclave, true).await);
    let other = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        Kept { key: Some(path), ..kept.clone() }
    };
    let right = fs::read_to_string(dir.path().join("log.key")).unwrap();
    let open = async |kept: &Kept| Log::open("agent", &options(kept), &*enclave).await.map(drop);
    open(&other("right", &right)).await.unwrap();
    let wrong = open(&other("wrong", &"ab".repeat(32))).await;
    assert!(matches!(wrong, Err(OpenError::Log(_))), "{wrong:?}");
    for text in ["", "ab", &"ab".repeat(33)] {
        assert!(matches!(open(&other("none", text)).await, Err(OpenError::File { .. })), "{text}");
    }
    fs::remove_file(dir.path().join("log.key")).unwrap();
    // No key is made for a log that is there.
    assert!(matches!(open(&kept).await, Err(OpenError::File { .. })));
    assert!(!Path::exists(&dir.path().join("log.key")));
}
