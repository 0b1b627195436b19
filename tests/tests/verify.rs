//! `glasshouse verify --document`: every outcome an auditor can meet, on genuine documents of others.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::path::PathBuf;

use bed::{Bed, text, utf8};

const PCR0: &str = "189038eccf28a3a0";

/// A genuine document that the attestation crate tests with; its sources are listed beside it.
fn document(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/attestation/testdata").join(name);
    utf8(&path.canonicalize().expect(name)).to_owned()
}

/// Runs `verify --document NAME` with more arguments; exit code and everything printed.
fn verify(bed: &Bed, name: &str, more: &[&str]) -> (i32, String) {
    let document = document(name);
    let mut args = vec!["verify", "--document", &document];
    args.extend(more);
    let output = bed.run(&args);
    (output.status.code().expect("verify exits"), text(&output))
}

const AT: [&str; 2] = ["--at", "2024-12-13T07:37:58Z"];

#[test]
fn a_genuine_document_is_accepted_at_its_time() {
    let Some(bed) = Bed::local() else { return };
    let (code, shown) = verify(&bed, "oyster_aws.cose", &[&AT[..], &["--any-image"]].concat());
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("VERIFIED") && shown.contains("any image") && !shown.contains("simulated"),
        "{shown}"
    );
    let (code, json) = verify(&bed, "oyster_aws.cose", &[&AT[..], &["--any-image", "--json"]].concat());
    assert_eq!(code, 0);
    let line = json.lines().find(|line| line.starts_with('{')).unwrap();
    let verdict: serde_json::Value = serde_json::from_str(line).unwrap();
    let pcr0 = verdict["claims"]["pcrs"]["PCR0"].as_str().unwrap();
    assert!(pcr0.starts_with(PCR0));

    // Its own value as reference is accepted, any other is refused, by name and with both values.
    let (code, shown) = verify(&bed, "oyster_aws.cose", &[&AT[..], &["--pcr0", pcr0]].concat());
    assert_eq!(code, 0, "{shown}");
    let other = "1".repeat(96);
    let (code, shown) = verify(&bed, "oyster_aws.cose", &[&AT[..], &["--pcr0", &other]].concat());
    assert_eq!(code, 1);
    assert!(shown.contains("refused: PCR0") && shown.contains(pcr0) && shown.contains(&other), "{shown}");
}

#[test]
fn a_document_is_read_as_base64_and_hex_too() {
    let Some(bed) = Bed::local() else { return };
    let at = ["--at", "2025-02-21T03:44:37Z", "--any-image"];
    let nonce = "0123456789abcdef0123456789abcdef01234567";
    let (code, shown) = verify(&bed, "nitriding_sample.b64", &[&at[..], &["--nonce", nonce]].concat());
    assert_eq!(code, 0, "{shown}");
    let (code, shown) = verify(&bed, "nitriding_sample.b64", &[&at[..], &["--nonce", "00"]].concat());
    assert_eq!(code, 1);
    assert!(shown.contains("refused: nonce") && shown.contains(nonce), "{shown}");

    let raw = std::fs::read(document("oyster_aws.cose")).unwrap();
    let hex: String = raw.iter().map(|byte| format!("{byte:02X}")).collect();
    let path = bed.path("document.hex");
    std::fs::write(&path, hex).unwrap();
    let output = bed.run(&["verify", "--document", utf8(&path), AT[0], AT[1], "--any-image"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn each_refusal_says_what_was_expected_and_found() {
    let Some(bed) = Bed::local() else { return };
    let cases: &[(&str, &[&str], &[&str])] = &[
        // No reference values.
        ("oyster_aws.cose", &["--at", "2024-12-13T07:37:58Z"], &["reference value"]),
        // Outside the certificates' lives, which are hours.
        ("oyster_aws.cose", &["--at", "2024-12-13T05:57:41Z", "--any-image"], &["2024-12-13T05:57:4"]),
        ("oyster_aws.cose", &["--at", "2024-12-13T08:58:00Z", "--any-image"], &["2024-12-13T08:5"]),
        // Another root than AWS's.
        ("oyster_custom_root.cose", &["--at", "2024-12-13T09:05:45Z", "--any-image"], &["root"]),
        // A genuine document of an enclave in debug mode, with and without more to compare.
        ("debug", &["--at", "2025-12-25T08:20:46Z", "--any-image"], &["debug mode"]),
        // A register that is not in the document.
        ("oyster_aws.cose", &["--at", "2024-12-13T07:37:58Z", "--pcr16", ZERO], &["PCR16", "found none"]),
        // No nonce where one is expected.
        (
            "oyster_aws.cose",
            &["--at", "2024-12-13T07:37:58Z", "--any-image", "--nonce", "00"],
            &["nonce", "none"],
        ),
    ];
    for (name, args, words) in cases {
        let (code, shown) = match *name {
            "debug" => verify_debug(&bed, args),
            name => verify(&bed, name, args),
        };
        assert_eq!(code, 1, "{name} {args:?}: {shown}");
        assert!(shown.contains("NOT VERIFIED") && shown.contains("refused: "), "{shown}");
        for word in *words {
            assert!(shown.contains(word), "{name} {args:?} lacks {word:?}: {shown}");
        }
    }
    let (code, shown) = verify_debug(&bed, &["--at", "2025-12-25T08:20:46Z", "--any-image", "--allow-debug"]);
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("debug mode"), "{shown}");
}

const ZERO: &str =
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

/// The document lies inside a wrapper of another format: 4529 bytes from offset 4.
fn verify_debug(bed: &Bed, args: &[&str]) -> (i32, String) {
    let wrapped = std::fs::read(document("dstack_debug_scale.bin")).unwrap();
    let path = bed.path("debug.cose");
    std::fs::write(&path, &wrapped[4..4 + 4529]).unwrap();
    let mut all = vec!["verify", "--document", utf8(&path)];
    all.extend(args);
    let output = bed.run(&all);
    (output.status.code().unwrap(), text(&output))
}

#[test]
fn a_changed_byte_and_a_cut_document_are_refused() {
    let Some(bed) = Bed::local() else { return };
    let genuine = std::fs::read(document("oyster_aws.cose")).unwrap();
    let path = bed.path("document");
    let check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let output = bed.run(&["verify", "--document", utf8(&path), AT[0], AT[1], "--any-image"]);
        (output.status.code(), text(&output))
    };
    assert_eq!(check(&genuine).0, Some(0));
    for position in [20, 300, 2000, genuine.len() - 1] {
        let mut changed = genuine.clone();
        changed[position] ^= 1;
        assert_eq!(check(&changed).0, Some(1), "byte {position}");
    }
    assert_eq!(check(&genuine[..genuine.len() - 1]).0, Some(1));
    assert_eq!(check(b"").0, Some(3));
    assert_eq!(check(b"not a document!").0, Some(3));
}

#[test]
fn mistakes_in_the_arguments_are_usage_errors() {
    let Some(bed) = Bed::local() else { return };
    for more in [
        &["--at", "yesterday", "--any-image"][..],
        &["--at", "2024-12-13T07:37:58Z", "--pcr0", "12"],
        &["--at", "2024-12-13T07:37:58Z", "--nonce", "xyz", "--any-image"],
        &["--at", "2024-12-13T07:37:58Z", "--pcr0", ZERO, "--any-image"],
    ] {
        let (code, shown) = verify(&bed, "oyster_aws.cose", more);
        assert_eq!(code, 2, "{more:?}: {shown}");
    }
    for url in ["http://127.0.0.1:1", "https://127.0.0.1:1/path", "nonsense"] {
        assert_eq!(bed.run(&["verify", url, "--any-image"]).status.code(), Some(2), "{url}");
    }
    // Nobody there is a failure of the check, not an answer.
    let output = bed.run(&["verify", "https://127.0.0.1:1", "--any-image"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}
