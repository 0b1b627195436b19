//! The documents of the specification: what is accepted, and at which step each other one is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use attestation::{DecodeError, Roots, UnixTime, VerifyError, verify};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use serde_json::{Value, json};
use support::{
    Chain, PROTECTED, Payload, Place, Plan, array, bytes, envelope, null, pcr_map, sign, text, uint,
};

const PATH: &str = "../../docs/spec/vectors/attestation/documents.json";
const AT: &str = "2025-06-01T00:00:00Z";

/// The step of `docs/spec/attestation.md` at which `error` refuses.
fn step(error: &VerifyError) -> u64 {
    match error {
        VerifyError::Decode(error) => match error {
            DecodeError::Tag { .. } | DecodeError::EnvelopeParts { .. } => 1,
            DecodeError::TooLong { what, .. }
            | DecodeError::Cbor { what, .. }
            | DecodeError::TrailingBytes { what, .. }
                if ["document", "COSE_Sign1", "protected header", "unprotected header", "signature"]
                    .contains(what) =>
            {
                1
            }
            DecodeError::ProtectedHeader
            | DecodeError::UnprotectedHeader { .. }
            | DecodeError::Algorithm { .. }
            | DecodeError::SignatureLength { .. } => 2,
            _ => 3,
        },
        VerifyError::Expired { .. }
        | VerifyError::NotYetValid { .. }
        | VerifyError::UntrustedRoot { .. }
        | VerifyError::Certificate { .. }
        | VerifyError::Chain { .. } => 4,
        VerifyError::KeyUsage { .. } => 5,
        VerifyError::Signature { .. } => 6,
        other => panic!("{other} has no step"),
    }
}

#[test]
fn every_document_is_accepted_or_refused_at_its_step() {
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(PATH).unwrap()).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let name = &case["name"];
        let document = STANDARD.decode(case["document"].as_str().unwrap()).unwrap();
        let roots = Roots::custom(case["root"].as_str().unwrap().as_bytes()).unwrap();
        let at: UnixTime = case["at"].as_str().unwrap().parse().unwrap();
        match (verify(&document, &roots, at), case["refused_at"].as_u64()) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert_eq!(step(&error), expected, "{name}: {error:?}"),
            (found, expected) => panic!("{name}: {expected:?} expected, {found:?} found"),
        }
    }
}

struct Cases(Vec<Value>);

impl Cases {
    fn add(&mut self, name: &str, refused_at: Option<u64>, root: &[u8], document: &[u8]) {
        self.at(name, refused_at, root, document, AT);
    }

    fn at(&mut self, name: &str, refused_at: Option<u64>, root: &[u8], document: &[u8], at: &str) {
        let lines: Vec<_> = STANDARD
            .encode(root)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect();
        let root = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        let mut case = json!({ "name": name, "root": root, "at": at, "document": STANDARD.encode(document) });
        if let Some(step) = refused_at {
            case["refused_at"] = step.into();
        }
        self.0.push(case);
    }
}

fn changed(wanted: Place, mut change: impl FnMut(&mut Plan)) -> Chain {
    Chain::with(3, |place, plan| {
        if place == wanted {
            change(plan);
        }
    })
}

/// Writes the vectors anew, with new keys. The documents of a specification are made once.
#[test]
#[ignore = "writes docs/spec/vectors/attestation/documents.json"]
fn make_vectors() {
    let mut cases = Cases(Vec::new());
    forms(&mut cases);
    payloads(&mut cases);
    chains(&mut cases);
    usages_and_signatures(&mut cases);
    let vectors = json!({ "cases": cases.0 });
    std::fs::write(PATH, serde_json::to_string_pretty(&vectors).unwrap() + "\n").unwrap();
}

fn forms(cases: &mut Cases) {
    let chain = Chain::new();
    let root = chain.root().to_vec();
    let payload = Payload::new(&chain);
    let (encoded, document) = (payload.encode(), payload.sign(&chain));
    let signature = sign(&chain.leaf_key_pkcs8, PROTECTED, &encoded);
    cases.add("a document", None, &root, &document);
    cases.add("with the tag of COSE_Sign1", None, &root, &[&[0xd2][..], &document].concat());
    let indefinite = Payload { indefinite: true, ..payload.clone() };
    cases.add("a payload of indefinite length", None, &root, &indefinite.sign(&chain));
    cases.add("another tag", Some(1), &root, &[&[0xd1][..], &document].concat());
    cases.add("cut", Some(1), &root, &document[..document.len() - 1]);
    cases.add("a byte after it", Some(1), &root, &[&document[..], &[0]].concat());
    cases.add("nothing", Some(1), &root, &[]);
    cases.add("an array of five", Some(1), &root, &[&[0x85][..], &document[1..], &[0xf6]].concat());
    cases.add("longer than any", Some(1), &root, &[&document[..], &[0; 16384]].concat());
    let other = [0xa1, 0x01, 0x26];
    let es256 = envelope(&other, &[0xa0], &encoded, &sign(&chain.leaf_key_pkcs8, &other, &encoded));
    cases.add("signed with ES256 by its header", Some(2), &root, &es256);
    let unprotected = envelope(PROTECTED, &[0xa1, 0x04, 0x41, 0x31], &encoded, &signature);
    cases.add("an unprotected header", Some(2), &root, &unprotected);
    cases.add(
        "a signature of 95 bytes",
        Some(2),
        &root,
        &envelope(PROTECTED, &[0xa0], &encoded, &signature[..95]),
    );
}

fn payloads(cases: &mut Cases) {
    let chain = Chain::new();
    let mut refused = |name: &str, change: &dyn Fn(&mut Payload)| {
        let mut payload = Payload::new(&chain);
        change(&mut payload);
        cases.add(name, Some(3), chain.root(), &payload.sign(&chain));
    };
    refused("an unknown field", &|payload| payload.add("verified", vec![0xf5]));
    refused("a field twice", &|payload| payload.add("nonce", null()));
    refused("no registers", &|payload| drop(payload.remove("pcrs").encode()));
    refused("registers of 32 bytes", &|payload| {
        drop(payload.set("pcrs", pcr_map(&[(0, vec![1; 32])])).encode())
    });
    refused("register 32", &|payload| drop(payload.set("pcrs", pcr_map(&[(32, vec![1; 48])])).encode()));
    refused("a register twice", &|payload| {
        payload.set("pcrs", pcr_map(&[(0, vec![1; 48]), (0, vec![1; 48])]));
    });
    refused("another digest", &|payload| drop(payload.set("digest", text("SHA512")).encode()));
    refused("the time 0", &|payload| drop(payload.set("timestamp", uint(0)).encode()));
    refused("a name that ends a line", &|payload| {
        drop(payload.set("module_id", text("i-0\nVERIFIED")).encode())
    });
    refused("no issuers", &|payload| drop(payload.set("cabundle", array(&[])).encode()));
    refused("a leaf that is too long", &|payload| {
        drop(payload.set("certificate", bytes(&[0x30; 1025])).encode())
    });
    refused("a nonce that is a text", &|payload| drop(payload.set("nonce", text("nonce")).encode()));
}

fn chains(cases: &mut Cases) {
    let mut add = |name: &str, step: Option<u64>, chain: &Chain| {
        cases.add(name, step, chain.root(), &Payload::new(chain).sign(chain));
    };
    add("no intermediates", None, &Chain::with(0, |_, _| {}));
    add("six intermediates", None, &Chain::with(6, |_, _| {}));
    let february = date_time_ymd(2025, 2, 1);
    for (name, place) in
        [("leaf", Place::Leaf), ("intermediate", Place::Intermediate(2)), ("root", Place::Root)]
    {
        add(&format!("an expired {name}"), Some(4), &changed(place, |plan| plan.params.not_after = february));
    }
    add(
        "a leaf that is not valid yet",
        Some(4),
        &changed(Place::Leaf, |plan| plan.params.not_before = date_time_ymd(2025, 12, 1)),
    );
    let ca = |constraints| IsCa::Ca(constraints);
    add(
        "a leaf that is an authority",
        Some(4),
        &changed(Place::Leaf, |plan| plan.params.is_ca = ca(BasicConstraints::Unconstrained)),
    );
    add(
        "an issuer that is no authority",
        Some(4),
        &changed(Place::Intermediate(3), |plan| plan.params.is_ca = IsCa::ExplicitNoCa),
    );
    let length = |length| {
        changed(Place::Intermediate(1), move |plan| {
            plan.params.is_ca = ca(BasicConstraints::Constrained(length))
        })
    };
    add("a chain as long as its authority allows", None, &length(2));
    add("a chain longer than its authority allows", Some(4), &length(1));
    let purpose = |purpose: ExtendedKeyUsagePurpose| {
        changed(Place::Leaf, move |plan| plan.params.extended_key_usages = vec![purpose.clone()])
    };
    add("a leaf for clients", None, &purpose(ExtendedKeyUsagePurpose::ClientAuth));
    add("a leaf for servers alone", Some(4), &purpose(ExtendedKeyUsagePurpose::ServerAuth));
    add(
        "an issuer on another curve",
        Some(4),
        &changed(Place::Intermediate(2), |plan| plan.algorithm = &PKCS_ECDSA_P256_SHA256),
    );
    let mut reordered = Chain::new();
    reordered.bundle[1..].reverse();
    add("issuers in another order", None, &reordered);
    let mut gap = Chain::new();
    gap.bundle.remove(2);
    add("an issuer that is missing", Some(4), &gap);
    let (chain, other) = (Chain::new(), Chain::new());
    let document = Payload::new(&chain).sign(&chain);
    cases.add("another root of the same name", Some(4), other.root(), &document);
    cases.at("before the certificates are valid", Some(4), chain.root(), &document, "2024-12-31T23:59:59Z");
    cases.at("the first second", None, chain.root(), &document, "2025-01-01T00:00:00Z");
    cases.at("the last second", None, chain.root(), &document, "2026-01-01T00:00:00Z");
    cases.at("a second later", Some(4), chain.root(), &document, "2026-01-01T00:00:01Z");
    let mut rootless = chain.clone();
    rootless.bundle.remove(0);
    cases.add("a bundle without its root", None, chain.root(), &Payload::new(&rootless).sign(&rootless));
}

fn usages_and_signatures(cases: &mut Cases) {
    let mut add = |name: &str, step: u64, chain: &Chain| {
        cases.add(name, Some(step), chain.root(), &Payload::new(chain).sign(chain));
    };
    add(
        "a leaf that may not sign",
        5,
        &changed(Place::Leaf, |plan| plan.params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
    );
    add("a leaf without usages", 5, &changed(Place::Leaf, |plan| plan.params.key_usages.clear()));
    add(
        "an issuer that may not issue",
        5,
        &changed(Place::Intermediate(2), |plan| {
            plan.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        }),
    );
    let (chain, other) = (Chain::new(), Chain::new());
    let encoded = Payload::new(&chain).encode();
    let theirs = sign(&other.leaf_key_pkcs8, PROTECTED, &encoded);
    cases.add(
        "signed with another key",
        Some(6),
        chain.root(),
        &envelope(PROTECTED, &[0xa0], &encoded, &theirs),
    );
    let document = Payload::new(&chain).sign(&chain);
    let mut flipped = document.clone();
    let register = document.windows(48).position(|window| window == [1; 48]).unwrap();
    flipped[register] ^= 1;
    cases.add("a bit of PCR0 changed", Some(6), chain.root(), &flipped);
    let mut flipped = document.clone();
    *flipped.last_mut().unwrap() ^= 1;
    cases.add("a bit of the signature changed", Some(6), chain.root(), &flipped);
}
