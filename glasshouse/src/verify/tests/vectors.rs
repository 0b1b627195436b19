//! The bundles of the specification: what is accepted, and which check refuses each other one. The auditor's page reads the
//! same.

mod who_and_policy;

use attestation::{
    ControlPolicy, Pcr, PcrIndex, ReferenceValues, Roots,
    batch::NonceBatch,
    binding::{ApplicationData, Statement},
    bundle::Bundle,
};
use serde_json::{Map, Value, json};

use super::scene::{CONTENT, IMAGE, NONCE, now};
use super::*;

const PATH: &str = "../docs/spec/vectors/attestation/bundles.json";

/// The row of each step of `docs/spec/attestation.md`.
fn check_of(step: u64) -> &'static str {
    match step {
        1..=6 => "signature and certificates",
        7 => "debug mode",
        8 => "PCR",
        9 => "nonce",
        10 => "control channel",
        11 => "binding statement",
        12 => "TLS key",
        13 => "measured manifest",
        14 => "ledger since boot",
        17 => "control transcript",
        18 => "policy: ",
        other => panic!("step {other} is in no vector"),
    }
}

fn question(asked: &Value, root: &str) -> Question {
    let pcrs = asked["pcrs"].as_object().unwrap().iter();
    let pcrs = pcrs.map(|(index, value)| {
        let value: Pcr = value.as_str().unwrap().parse().unwrap();
        (PcrIndex::new(index.parse().unwrap()).unwrap(), value)
    });
    let roots = match asked["root"].as_str() {
        Some("aws") => Roots::aws(),
        _ => Roots::custom(root.as_bytes()).unwrap(),
    };
    let mut ledger = Questions::default();
    for file in asked["files"].as_array().into_iter().flatten() {
        let path: Name = file["path"].as_str().unwrap().parse().unwrap();
        match file["absent"].as_bool() {
            Some(true) => ledger.absent.push(path),
            _ => {
                let wanted =
                    file["sha256"].as_str().map(|digest| Wanted::parse(&format!("sha256:{digest}")).unwrap());
                ledger.files.push((path, wanted));
            }
        }
    }
    let is = |member: &str| asked[member].as_bool() == Some(true);
    let control = match (is("sealed"), is("never_entered")) {
        (true, _) => ControlPolicy::Sealed,
        (_, true) => ControlPolicy::NeverEntered,
        _ => ControlPolicy::Unchecked,
    };
    let expected = Expected {
        roots,
        reference_values: ReferenceValues::Pcrs(pcrs.collect()),
        allow_debug: false,
        manifest: None,
        manifest_sha384: None,
    };
    let policy = asked["policy"].as_str().map(|text| PolicyFile::parse(text.as_bytes()).unwrap());
    Question { expected, policy, control, ledger }
}

#[test]
fn every_bundle_is_accepted_or_refused_by_its_check() {
    let vectors: Value = serde_json::from_str(&fs::read_to_string(PATH).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 80);
    for case in cases {
        let (name, asked) = (text(&case["name"]), &case["asked"]);
        let mut members = vectors["base"].as_object().unwrap().clone();
        members.extend(case["set"].as_object().unwrap().clone());
        members.retain(|_, value| !value.is_null());
        let bundle = Bundle::decode(&serde_json::to_vec(&members).unwrap()).unwrap();
        let material = Material {
            subject: name.clone(),
            document: bundle.document.0.clone(),
            bundle: Some(bundle),
            source: Source::Bundle,
            own_nonce: asked["nonce"].as_str().map(|nonce| hex::decode(nonce).unwrap()),
            at: Some(
                asked["at"].as_str().map_or_else(|| text(&vectors["at"]), str::to_owned).parse().unwrap(),
            ),
        };
        let verdict = judge(&material, &question(asked, vectors["root"].as_str().unwrap()));
        let failed = |check: &str| {
            verdict.checks.iter().any(|row| row.status == "failed" && row.check.starts_with(check))
        };
        match case["refused_at"].as_u64() {
            None => assert!(verdict.verified, "{name}: {verdict}"),
            Some(8) => assert!(
                !verdict.verified && (failed("PCR") || failed("reference values")),
                "{name}: {verdict}"
            ),
            Some(16) => {
                assert!(!verdict.verified && (failed("file ") || failed("absent ")), "{name}: {verdict}");
            }
            Some(step) => assert!(!verdict.verified && failed(check_of(step)), "{name}: {verdict}"),
        }
    }
}

struct Maker {
    scene: Scene,
    cases: Vec<Value>,
}

impl Maker {
    fn add(&mut self, name: &str, refused_at: Option<u64>, set: Value, asked: Value) {
        let value = hex::encode([IMAGE; 48]);
        let mut question: Map<String, Value> = Map::new();
        question.insert("pcrs".to_owned(), json!({ "0": value, "1": value, "2": value }));
        question.extend(asked.as_object().unwrap().clone());
        let mut case = json!({ "name": name, "asked": question, "set": set });
        if let Some(step) = refused_at {
            case["refused_at"] = step.into();
        }
        self.cases.push(case);
    }

    fn json(bundle: &Bundle) -> Value {
        serde_json::from_slice(&bundle.encode().unwrap()).unwrap()
    }

    /// The members of a bundle of another scene that make it one of that scene.
    fn of(bundle: &Bundle) -> Value {
        let mut json = Self::json(bundle);
        json.as_object_mut().unwrap().remove("version");
        json
    }

    fn document(&self, nonce: &[u8], statement: Option<Vec<u8>>) -> Value {
        let mut bundle = Bundle::new(self.scene.attest(nonce, statement), NONCE.to_vec());
        bundle.tls_key = None;
        json!(Self::json(&bundle)["document"])
    }
}

/// Writes the vectors anew, with new keys. The bundles of a specification are made once.
#[test]
#[ignore = "writes docs/spec/vectors/attestation/bundles.json"]
fn make_vectors() {
    let asked = Questions {
        files: vec![(name("/app/model.bin"), None)],
        absent: vec![name("/app/none")],
        ..Questions::default()
    };
    let scene = Scene::booted();
    scene.record("/app/late", Some(b"late"));
    let (at, base) = (now().to_string(), Maker::json(&scene.bundle(&asked)));
    let mut maker = Maker { scene, cases: Vec::new() };
    evidence(&mut maker);
    measured(&mut maker, &base);
    who_and_policy::transcripts(&mut maker);
    who_and_policy::policies(&mut maker);
    files(&mut maker, &base);
    let vectors = json!({ "at": at, "root": maker.scene.root_pem(), "base": base, "cases": maker.cases });
    fs::write(PATH, serde_json::to_string_pretty(&vectors).unwrap() + "\n").unwrap();
}

fn evidence(maker: &mut Maker) {
    let (nonce, other) = (hex::encode(NONCE), "08".repeat(32));
    maker.add("a bundle", None, json!({}), json!({}));
    maker.add("with the nonce that was drawn", None, json!({}), json!({ "nonce": nonce }));
    maker.add("a replayed one", Some(9), json!({}), json!({ "nonce": other }));
    maker.add("the nonce of the bundle is another", Some(9), json!({ "nonce": other }), json!({}));
    let batch = NonceBatch::new([[8; 32], NONCE, [9; 32]]).unwrap();
    let shared = maker.document(&batch.root().0, Some(maker.scene.statement().encode()));
    let path = |place| serde_json::to_value(batch.path(place).unwrap()).unwrap();
    maker.add(
        "a shared document",
        None,
        json!({ "document": shared, "batch": path(1) }),
        json!({ "nonce": nonce }),
    );
    maker.add(
        "a shared document and another's place",
        Some(9),
        json!({ "document": shared, "batch": path(0) }),
        json!({}),
    );
    maker.add("a shared document without a place", Some(9), json!({ "document": shared }), json!({}));
    maker.add("a place for a document that is not shared", Some(9), json!({ "batch": path(1) }), json!({}));
    let nowhere = json!({ "index": 3, "size": 3, "path": [] });
    maker.add(
        "a place that no batch has",
        Some(9),
        json!({ "document": shared, "batch": nowhere }),
        json!({}),
    );
    maker.add("under the root of AWS", Some(4), json!({}), json!({ "root": "aws" }));
    maker.add("when the leaf has expired", Some(4), json!({}), json!({ "at": "2035-01-01T00:00:00Z" }));
    maker.add("before it was valid", Some(4), json!({}), json!({ "at": "2020-01-01T00:00:00Z" }));
    maker.add("nothing to compare with", Some(8), json!({}), json!({ "pcrs": {} }));
    maker.add("another image", Some(8), json!({}), json!({ "pcrs": { "0": "22".repeat(48) } }));
    maker.add(
        "a register that is not locked",
        Some(8),
        json!({}),
        json!({ "pcrs": { "20": "22".repeat(48) } }),
    );
    maker.add("nobody has entered", None, json!({}), json!({ "never_entered": true }));
    maker.add("not sealed", Some(10), json!({}), json!({ "sealed": true }));
    let data = ApplicationData::new(b"server".to_vec()).unwrap();
    let statement = Statement::Application { application_key: None, data, ledger: None };
    let application = maker.document(&NONCE, Some(statement.encode()));
    maker.add("the application's word", Some(11), json!({ "document": application }), json!({}));
    let none = maker.document(&NONCE, None);
    maker.add("no binding statement", Some(11), json!({ "document": none }), json!({}));
    let mut longer = maker.scene.statement().encode();
    longer.splice(1..2, [0x18, 0x00]);
    let longer = maker.document(&NONCE, Some(longer));
    maker.add("a binding statement in another encoding", Some(11), json!({ "document": longer }), json!({}));
    maker.add("a key that is not the enclave's", Some(12), json!({ "tls_key": "AAAA" }), json!({}));
    maker.add("no key", None, json!({ "tls_key": null }), json!({}));
}

fn measured(maker: &mut Maker, base: &Value) {
    let other = Scene::booted();
    let theirs = Maker::of(&other.bundle(&Questions::default()));
    maker.add("another baseline", Some(13), json!({ "baseline": theirs["baseline"] }), json!({}));
    maker.add("no baseline", Some(13), json!({ "baseline": null }), json!({}));
    maker.add("another manifest", Some(13), json!({ "manifest": "eyJtb25pdG9yIjp7fX0=" }), json!({}));
    maker.add("no proof of growth", Some(14), json!({ "consistency": null }), json!({}));
    let mut consistency = base["consistency"].clone();
    consistency[0]["hashes"][0] = "00".repeat(32).into();
    maker.add(
        "a proof of growth with another hash",
        Some(14),
        json!({ "consistency": consistency }),
        json!({}),
    );
    consistency = base["consistency"].clone();
    consistency[0]["hashes"].as_array_mut().unwrap().pop();
    maker.add(
        "a proof of growth that is too short",
        Some(14),
        json!({ "consistency": consistency }),
        json!({}),
    );
}

fn files(maker: &mut Maker, base: &Value) {
    let sha256 = attestation::Sha256::of(CONTENT).to_string();
    let model = |more: Value| {
        let mut file = json!({ "path": "/app/model.bin" });
        file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "files": [file] })
    };
    maker.add("a file that is there", None, json!({}), model(json!({})));
    maker.add("a file with the digest expected", None, json!({}), model(json!({ "sha256": sha256 })));
    maker.add("a file with another digest", Some(16), json!({}), model(json!({ "sha256": "00".repeat(32) })));
    maker.add("a file that should not be there", Some(16), json!({}), model(json!({ "absent": true })));
    maker.add(
        "a path where nothing ever was",
        None,
        json!({}),
        json!({ "files": [{ "path": "/app/none", "absent": true }] }),
    );
    maker.add(
        "a path of which nobody would have seen anything",
        Some(16),
        json!({}),
        json!({ "files": [{ "path": "/etc/none", "absent": true }] }),
    );
    maker.add("a file that is not there", Some(16), json!({}), json!({ "files": [{ "path": "/app/none" }] }));
    maker.add(
        "a question without a proof",
        Some(16),
        json!({}),
        json!({ "files": [{ "path": "/app/old" }] }),
    );
    let proofs = |change: &dyn Fn(&mut Value)| {
        let mut proofs = base["proofs"].clone();
        change(&mut proofs);
        json!({ "proofs": proofs })
    };
    let renamed = proofs(&|proofs| proofs[0]["subject"] = "/app/other".into());
    maker.add("the proof of another file", Some(16), renamed, json!({ "files": [{ "path": "/app/other" }] }));
    let swapped = proofs(&|proofs| proofs[0]["proof"] = proofs[1]["proof"].clone());
    maker.add(
        "the proof of absence for a file that is there",
        Some(16),
        swapped,
        model(json!({ "absent": true })),
    );
    for (part, from_end) in [("record", 8), ("nonce", 60), ("path", 130)] {
        let changed = proofs(&|proofs| {
            use base64::{Engine, engine::general_purpose::STANDARD};
            let mut bytes = STANDARD.decode(proofs[0]["proof"].as_str().unwrap()).unwrap();
            let place = bytes.len() - from_end;
            bytes[place] ^= 1;
            proofs[0]["proof"] = STANDARD.encode(bytes).into();
        });
        maker.add(&format!("a proof with a bit of its {part} changed"), Some(16), changed, model(json!({})));
    }
    maker.scene.record("/app/model.bin", Some(b"replaced"));
    let document = maker.document(&NONCE, Some(maker.scene.statement().encode()));
    maker.add(
        "a proof for an older checkpoint",
        Some(16),
        json!({ "document": document, "consistency": null }),
        model(json!({})),
    );
    maker.scene.enter(b"who entered first");
    let entered = maker.document(&NONCE, Some(maker.scene.statement().encode()));
    maker.add(
        "somebody has entered",
        Some(10),
        json!({ "document": entered, "consistency": null }),
        json!({ "never_entered": true }),
    );
}
