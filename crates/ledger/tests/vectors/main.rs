//! The vectors of `docs/spec/ledger.md`. `cargo test -p glasshouse-ledger --test vectors -- --ignored` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

#[path = "../support/mod.rs"]
mod support;

mod make;

use std::fs;
use std::path::PathBuf;

use ledger::log::verify_consistency;
use ledger::tile::TileName;
use ledger::{
    Anchor, Baseline, Checkpoint, DecodeError, Entry, FileNow, Gap, Hash, NoteKey, Record, VerifyError,
};
use make::{generated, observation, stream};
use serde_json::{Value, json};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/spec/vectors/ledger").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap()
}

#[test]
#[ignore = "writes the vectors"]
fn write() {
    fs::create_dir_all(path("")).unwrap();
    for (name, value) in generated() {
        fs::write(path(name), format!("{value:#}\n")).unwrap();
    }
}

#[test]
fn the_vectors_are_what_is_made() {
    for (name, value) in generated() {
        assert!(read(name) == value, "{name} is another");
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().unwrap()
}

type Decode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

fn decoder(format: &str) -> Decode {
    match format {
        "entry" => |bytes| Entry::decode(bytes).map(|value| value.encode()),
        "record" => |bytes| Record::decode(bytes).map(|value| value.encode()),
        "gap" => |bytes| Gap::decode(bytes).map(|value| value.encode()),
        "baseline" => |bytes| Baseline::decode(bytes).map(|value| value.encode()),
        other => panic!("{other}"),
    }
}

#[test]
fn encodings_are_decoded_or_refused() {
    let vectors = read("encodings.json");
    for vector in list(&vectors, "valid") {
        let encoding = bytes(&vector["encoding"]);
        let decode = decoder(vector["format"].as_str().unwrap());
        assert_eq!(decode(&encoding).unwrap(), encoding, "{vector}");
    }
    for vector in list(&vectors, "refused") {
        let refusal = decoder(vector["format"].as_str().unwrap())(&bytes(&vector["encoding"])).unwrap_err();
        let found = format!("{refusal:?}");
        assert!(found.starts_with(vector["refusal"].as_str().unwrap()), "{vector}: {found}");
    }
}

fn anchor(vectors: &Value) -> Anchor {
    let hash = |name: &str| vectors[name].as_str().unwrap().parse().unwrap();
    let size = vectors["size"].as_u64().unwrap();
    let checkpoint = Checkpoint { size, log_root: hash("log_root"), map_root: hash("map_root") };
    Anchor::new(checkpoint, &bytes(&vectors["vrf_key"]).try_into().unwrap()).unwrap()
}

fn verified(anchor: &Anchor, vector: &Value) -> Result<Value, VerifyError> {
    let (subject, proof) = (&vector["subject"], bytes(&vector["proof"]));
    Ok(match vector["kind"].as_str().unwrap() {
        "file" => match anchor.verify_file(&bytes(subject), &proof)? {
            FileNow::Never => json!("never"),
            FileNow::Recorded(one) => observation(&one),
        },
        "history" => {
            anchor.verify_history(&bytes(subject), &proof)?.iter().map(observation).collect::<Value>()
        }
        _ => stream(&anchor.verify_stream(&subject.as_str().unwrap().parse().unwrap(), &proof)?),
    })
}

#[test]
fn proofs_hold_or_are_refused() {
    let vectors = read("proofs.json");
    let anchor = anchor(&vectors);
    for vector in list(&vectors, "valid") {
        assert_eq!(verified(&anchor, vector).unwrap(), vector["result"], "{}", vector["name"]);
    }
    for vector in list(&vectors, "refused") {
        let found = format!("{:?}", verified(&anchor, vector).unwrap_err());
        assert!(found.starts_with(vector["refusal"].as_str().unwrap()), "{}: {found}", vector["name"]);
    }
    for vector in list(&vectors, "consistency") {
        let hash = |name: &str| vector[name].as_str().unwrap().parse::<Hash>().unwrap();
        let size = |name: &str| vector[name].as_u64().unwrap();
        let hashes: Vec<Hash> =
            list(vector, "hashes").iter().map(|hash| hash.as_str().unwrap().parse().unwrap()).collect();
        let result =
            verify_consistency(size("from"), &hash("from_root"), size("to"), &hash("to_root"), &hashes);
        assert_eq!(result.is_ok(), vector["holds"].as_bool().unwrap(), "{vector}");
    }
}

#[test]
fn notes_hold_or_are_refused() {
    let vectors = read("checkpoints.json");
    let key =
        NoteKey::new(vectors["origin"].as_str().unwrap(), &bytes(&vectors["ledger_key"]).try_into().unwrap());
    let key = key.unwrap();
    assert_eq!(key.verifier_text(), vectors["verifier_key"]);
    for vector in list(&vectors, "valid") {
        let found = Checkpoint::open(vector["note"].as_str().unwrap().as_bytes(), &key).unwrap();
        assert_eq!(found.size.to_string(), vector["size"].as_str().unwrap());
        assert_eq!(found.log_root.to_string(), vector["log_root"].as_str().unwrap());
        assert_eq!(found.map_root.to_string(), vector["map_root"].as_str().unwrap());
    }
    for vector in list(&vectors, "refused") {
        let refused = Checkpoint::open(vector["note"].as_str().unwrap().as_bytes(), &key);
        assert!(refused.is_err(), "{}", vector["name"]);
    }
    for name in list(&vectors, "tiles") {
        assert_eq!(name.as_str().unwrap().parse::<TileName>().unwrap().to_string(), name.as_str().unwrap());
    }
    for name in list(&vectors, "no_tiles") {
        assert!(name.as_str().unwrap().parse::<TileName>().is_err(), "{name}");
    }
}
