//! A verifier in another language, written from the specification with nothing but Python's library, judges the vectors as
//! they say.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::path::Path;
use std::process::Command;

#[test]
fn a_verifier_written_from_the_specification_agrees_with_every_vector() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vectors = here.join("../../docs/spec/vectors/ledger");
    let output = Command::new("python3").arg(here.join("tests/stranger.py")).arg(vectors).output();
    let output = output.expect("python3 is there");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
}
