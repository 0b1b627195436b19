//! DNS messages: a program's question, and a reply from outside to a question of ours.

#![no_main]

use intercept::dns::{Answer, Query};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(query) = Query::parse(data) {
        let answer = query.answer(&Answer::Forbidden, true);
        assert!(answer.len() <= query.udp_limit());
        assert!(Query::parse(&query.upstream(1)).is_ok());
    }
    for kind in [5, 15, 16, 33, 65] {
        // A question for `a.b`, and a reply to it whose records are the fuzzer's.
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 4, 0, 0, 0, 0, 1, b'a', 1, b'b', 0, 0, kind, 0, 1];
        message.extend(data);
        let mut question = message[..21].to_vec();
        question[2..8].copy_from_slice(&[1, 0, 0, 1, 0, 0]);
        let query = Query::parse(&question).expect("the question is our own");
        if let Ok(answer) = query.relay(7, &message, false) {
            assert!(answer.starts_with(&[0, 7, 0x81, 0x80]));
        }
        let _ = query.relay(7, data, true);
    }
});
