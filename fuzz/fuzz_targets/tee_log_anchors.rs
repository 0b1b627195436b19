//! What a ledger's stream is said to hold of a log: anchors that only go on, or an error that names the first which does not; and agents.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tee_log::{Agent, Anchor, AnchorError, Verifier, anchors};

/// What an anchor begins with: without it a fuzzer would look for it for ever.
const TAG: &[u8] = b"tee-log anchor v1";
/// Number, digest and key of an anchor.
const REST_BYTES: usize = 8 + 32 + 33;

fuzz_target!(|bytes: &[u8]| {
    if let Some(anchor) = Anchor::decode(bytes) {
        assert_eq!(anchor.encode(), bytes);
    }
    if let Ok(agent) = serde_json::from_slice::<Agent>(bytes) {
        let json = serde_json::to_vec(&agent).expect("an agent is JSON");
        assert_eq!(serde_json::from_slice::<Agent>(&json).expect("what was written is read"), agent);
    }
    let payloads: Vec<Vec<u8>> = bytes.chunks(REST_BYTES).map(|rest| [TAG, rest].concat()).collect();
    match anchors(payloads.iter().map(Vec::as_slice)) {
        Ok(found) => {
            assert!(found.is_sorted_by_key(|anchor| anchor.position.sequence));
            let shown = Verifier::with_anchors(found.clone()).shows_all_anchored();
            assert_eq!(shown.is_ok(), found.is_empty(), "nothing was shown yet");
        }
        Err(AnchorError::Form { index } | AnchorError::Back { index }) => assert!(index < payloads.len()),
        Err(_) => {}
    }
});
