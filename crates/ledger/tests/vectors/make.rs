//! Makes the vectors, of what the crate says and of what it must refuse.

use ledger::log::prove_consistency;
use ledger::{
    Algorithm, Attributes, Baseline, Cause, Checkpoint, Content, Device, Digests, Entry, Gap, GapReason,
    Hash, Key, Kind, Observation, Proof, ProofKind, Record, SigningKey, State, StreamEnd, StreamName,
    StreamPayload, commitment, log, map,
};
use serde_json::{Value, json};

use crate::support::{Small, example, file};
use crate::verified;

pub(crate) fn generated() -> [(&'static str, Value); 4] {
    [
        ("encodings.json", encodings()),
        ("hashing.json", hashing()),
        ("proofs.json", proofs()),
        ("checkpoints.json", checkpoints()),
    ]
}

pub(crate) fn observation(one: &Observation) -> Value {
    json!({
        "index": one.index, "sequence": one.sequence, "time": one.time.to_string(), "record": record(&one.record),
    })
}

pub(crate) fn stream(end: &StreamEnd) -> Value {
    let entries = end.entries.iter().map(|one| {
        let payload = match &one.payload {
            StreamPayload::Bytes(bytes) => json!(hex::encode(bytes)),
            StreamPayload::Gap(one) => gap(one),
        };
        json!({"index": one.index, "sequence": one.sequence, "time": one.time.to_string(), "payload": payload})
    });
    json!({"count": end.count, "entries": entries.collect::<Value>()})
}

fn gap(gap: &Gap) -> Value {
    json!({"reason": gap.reason.name(), "since": gap.since.to_string(), "detail": gap.detail})
}

fn record(record: &Record) -> Value {
    let mut value = json!({"cause": record.cause.name(), "type": "removed"});
    let State::Present(attributes, content) = &record.state else { return value };
    value["type"] = json!(content.type_name());
    value["mode"] = json!(attributes.mode);
    value["uid"] = json!(attributes.uid);
    value["gid"] = json!(attributes.gid);
    value["mtime"] = json!(attributes.mtime.to_string());
    let digests = |digests: &Digests| {
        digests.iter().map(|(one, digest)| (one.name().to_owned(), json!(hex::encode(digest)))).collect()
    };
    match content {
        Content::File { size, digests: of } => {
            value["size"] = json!(size.to_string());
            value["digests"] = Value::Object(digests(of));
        }
        Content::Directory { entries, digests: of } => {
            value["entries"] = json!(entries.to_string());
            value["digests"] = Value::Object(digests(of));
        }
        Content::Symlink { target } => value["target"] = json!(hex::encode(target)),
        Content::CharacterDevice(device) | Content::BlockDevice(device) => {
            value["major"] = json!(device.major);
            value["minor"] = json!(device.minor);
        }
        Content::Fifo | Content::Socket => {}
        Content::Unreadable { size } => value["size"] = json!(size.to_string()),
    }
    value
}

fn entry(entry: &Entry) -> Value {
    json!({
        "kind": entry.kind as u8, "time": entry.time.to_string(), "subject": entry.subject.to_string(),
        "sequence": entry.sequence.to_string(), "previous": entry.previous.map(|one| one.to_string()),
        "commitment": entry.commitment.to_string(),
    })
}

fn records() -> Vec<(&'static str, Record)> {
    let attributes = Attributes { mode: 0o4755, uid: 0, gid: u32::MAX, mtime: 1_700_000_000_123_456_789 };
    let digests = Digests::new()
        .with(Algorithm::Blake3, &[0xb3; 32])
        .with(Algorithm::Sha256, &[0x25; 32])
        .with(Algorithm::Sha3_512, &[0x35; 64]);
    let present = |cause, content| Record { cause, state: State::Present(attributes, content) };
    let device = Device { major: 1, minor: 3 };
    vec![
        ("removed", Record { cause: Cause::Event, state: State::Removed }),
        ("regular file", present(Cause::Scan, Content::File { size: 1 << 40, digests: digests.clone() })),
        ("one digest, before 1970", file(b"content")),
        ("directory", present(Cause::Access, Content::Directory { entries: 24, digests })),
        (
            "directory without digest",
            present(Cause::Scan, Content::Directory { entries: 0, digests: Digests::new() }),
        ),
        ("symbolic link", present(Cause::Sweep, Content::Symlink { target: b"../\xff".to_vec() })),
        ("character device", present(Cause::Overflow, Content::CharacterDevice(device))),
        ("block device", present(Cause::Restart, Content::BlockDevice(device))),
        ("named pipe", present(Cause::Event, Content::Fifo)),
        ("socket", present(Cause::Event, Content::Socket)),
        ("unreadable", present(Cause::Event, Content::Unreadable { size: 255 })),
    ]
}

fn entries() -> [(&'static str, Entry); 3] {
    let (subject, commitment) = (Key([0x5b; 32]), Hash([0xc0; 32]));
    let first = Entry { kind: Kind::File, time: 0, subject, sequence: 0, previous: None, commitment };
    let later = Entry { kind: Kind::Stream, time: 1 << 60, sequence: 24, previous: Some(0), ..first.clone() };
    let last = u64::MAX;
    let largest =
        Entry { kind: Kind::Gap, time: last, sequence: last, previous: Some(last), ..first.clone() };
    [("first of a file", first), ("later of a stream", later), ("largest numbers", largest)]
}

fn baseline() -> Baseline {
    let small = example();
    Baseline {
        vrf_key: small.vrf_key(),
        ledger_key: *small.signing.public_bytes(),
        checkpoint: small.checkpoint(),
    }
}

fn encodings() -> Value {
    let mut valid = Vec::new();
    for (name, one) in entries() {
        valid.push(json!({"format": "entry", "name": name, "encoding": hex::encode(one.encode()), "value": entry(&one)}));
    }
    for (name, one) in records() {
        valid.push(json!({"format": "record", "name": name, "encoding": hex::encode(one.encode()), "value": record(&one)}));
    }
    for (name, one) in [
        ("restart", Gap { reason: GapReason::Restart, since: 0, detail: String::new() }),
        (
            "overflow",
            Gap { reason: GapReason::Overflow, since: 1 << 33, detail: "16384 events – lost".to_owned() },
        ),
    ] {
        valid.push(
            json!({"format": "gap", "name": name, "encoding": hex::encode(one.encode()), "value": gap(&one)}),
        );
    }
    let one = baseline();
    valid.push(json!({"format": "baseline", "name": "baseline", "encoding": hex::encode(one.encode()), "value": {
        "vrf_key": hex::encode(one.vrf_key), "ledger_key": hex::encode(one.ledger_key), "origin": one.origin(),
        "size": one.checkpoint.size.to_string(), "log_root": one.checkpoint.log_root.to_string(),
        "map_root": one.checkpoint.map_root.to_string(),
    }}));
    json!({"about": "Vectors of docs/spec/ledger.md. Bytes are hexadecimal, large numbers decimal texts.", "valid": valid, "refused": refused_encodings()})
}

/// Encodings with one thing wrong, written out.
fn refused_encodings() -> Value {
    let (subject, commitment) = ("5820".to_owned() + &"5b".repeat(32), "5820".to_owned() + &"c0".repeat(32));
    let entry = |head: &str, tail: &str| format!("{head}{subject}{tail}{commitment}");
    let list = [
        ("entry", "version 2", entry("87020100", "00f6"), "Version"),
        ("entry", "kind 0", entry("87010000", "00f6"), "Range"),
        ("entry", "kind 4", entry("87010400", "00f6"), "Range"),
        ("entry", "first with an entry before", entry("87010100", "0000"), "Range"),
        ("entry", "later without an entry before", entry("87010100", "01f6"), "Range"),
        ("entry", "six members", entry("86010100", "00f6"), "Members"),
        ("entry", "a time in two bytes", entry("8701011801", "00f6"), "NotCanonical"),
        ("entry", "of indefinite length", entry("9f010100", "00f6") + "ff", "NotCanonical"),
        ("entry", "followed by a byte", entry("87010100", "00f6") + "00", "NotCanonical"),
        ("entry", "cut", entry("87010100", "00f6")[..80].to_owned(), "Cbor"),
        ("entry", "a negative time", entry("87010120", "00f6"), "Cbor"),
        (
            "entry",
            "a subject of 31 bytes",
            format!("87010100581f{}00f6{commitment}", "5b".repeat(31)),
            "Length",
        ),
        ("entry", "129 bytes", "00".repeat(129), "TooLong"),
        ("record", "removed, with attributes", "8801010000000000".to_owned() + "80", "Members"),
        ("record", "present, without attributes", "83010101".to_owned(), "Members"),
        ("record", "cause 0", "83010000".to_owned(), "Range"),
        ("record", "cause 7", "83010700".to_owned(), "Range"),
        ("record", "type 9", "880101090000000080".to_owned(), "Range"),
        ("record", "mode 4096", "88010106191000000000".to_owned() + "80", "Range"),
        ("record", "uid 2^32", "88010106001b0000000100000000000080".to_owned(), "Range"),
        ("record", "a file without digest", "8801010100000000".to_owned() + "8200a0", "Range"),
        ("record", "an unknown digest", format!("88010101000000008200a1045820{}", "00".repeat(32)), "Range"),
        (
            "record",
            "a digest of 31 bytes",
            format!("88010101000000008200a101581f{}", "00".repeat(31)),
            "Range",
        ),
        (
            "record",
            "digests out of order",
            format!("88010101000000008200a2025820{0}015820{0}", "00".repeat(32)),
            "NotCanonical",
        ),
        (
            "record",
            "a digest twice",
            format!("88010101000000008200a2015820{0}015820{0}", "00".repeat(32)),
            "NotCanonical",
        ),
        ("record", "a link to nothing", "88010103000000008140".to_owned(), "Range"),
        ("record", "a pipe with content", "8801010600000000".to_owned() + "8100", "Members"),
        ("gap", "reason 0", "84010000".to_owned() + "60", "Range"),
        ("gap", "reason 5", "84010500".to_owned() + "60", "Range"),
        ("gap", "257 bytes of detail", format!("84010100790101{}", "61".repeat(257)), "Length"),
        ("gap", "detail that is no UTF-8", "8401010061ff".to_owned(), "Cbor"),
        ("baseline", "version 2", hex::encode(baseline().encode()).replacen("8601", "8602", 1), "Version"),
        ("baseline", "five members", hex::encode(baseline().encode()).replacen("86", "85", 1), "Members"),
    ];
    list.iter()
        .map(|(format, name, encoding, refusal)| {
            json!({"format": format, "name": name, "encoding": encoding, "refusal": refusal})
        })
        .collect()
}

fn hashing() -> Value {
    let streams = ["ledger", "app/agent", "egress"]
        .map(|name| json!({"name": name, "key": name.parse::<StreamName>().unwrap().key().to_string()}));
    let commitments = [("", [0; 32]), ("payload", [7; 32])].map(|(payload, nonce)| {
        let of = commitment(&nonce, payload.as_bytes());
        json!({"nonce": hex::encode(nonce), "payload": hex::encode(payload), "commitment": of.to_string()})
    });
    let logs = [0, 1, 2, 3, 7, 30].map(|size| {
        let small = example();
        let entries = small.entries.iter().take(size).map(hex::encode).collect::<Vec<_>>();
        json!({"entries": entries, "root": small.root_at(size as u64).to_string()})
    });
    let maps = [0, 1, 2, 5, 40].map(|size: u64| {
        let keys = (0..size).map(|number| {
            // The first two share 16 bits.
            let key = if number < 2 { [0xab, 0xcd, u8::try_from(number).unwrap()].repeat(11) } else { log::leaf_hash(&[u8::try_from(number).unwrap()]).0.to_vec() };
            let key = Key(key[..32].try_into().unwrap());
            (key, map::Value { count: number + 1, last: number * 1000, leaf: Hash([u8::try_from(number).unwrap(); 32]) })
        });
        let keys: Vec<_> = keys.collect();
        let mut map = map::Map::new();
        map.apply(keys.clone());
        let keys = keys.iter().map(|(key, value)| {
            json!({"key": key.to_string(), "count": value.count, "last": value.last, "leaf": value.leaf.to_string()})
        });
        json!({"keys": keys.collect::<Value>(), "root": map.root().to_string()})
    });
    let one = baseline();
    let origin = json!({"ledger_key": hex::encode(one.ledger_key), "vrf_key": hex::encode(one.vrf_key), "origin": one.origin()});
    json!({"streams": streams, "commitments": commitments, "logs": logs, "maps": maps, "origin": origin})
}

fn proofs() -> Value {
    let small = example();
    let (checkpoint, anchor) = (small.checkpoint(), small.anchor());
    let valid: Vec<Value> = cases(&small)
        .into_iter()
        .map(|(name, kind, subject, proof)| {
            let mut vector = vector(name, kind, &subject, &proof);
            vector["result"] = verified(&anchor, &vector).unwrap();
            vector
        })
        .collect();
    let refused: Vec<Value> = forgeries(&small)
        .into_iter()
        .map(|(name, kind, subject, proof, refusal)| {
            let mut vector = vector(name, kind, &subject, &proof);
            vector["refusal"] = json!(refusal);
            vector
        })
        .collect();
    json!({
        "vrf_key": hex::encode(small.vrf_key()), "size": checkpoint.size,
        "log_root": checkpoint.log_root.to_string(), "map_root": checkpoint.map_root.to_string(),
        "valid": valid, "refused": refused, "consistency": consistency(&small),
    })
}

const MODEL: &[u8] = b"/app/model.bin";

fn vector(name: &str, kind: &str, subject: &[u8], proof: &[u8]) -> Value {
    let subject =
        if kind == "stream" { String::from_utf8(subject.to_vec()).unwrap() } else { hex::encode(subject) };
    json!({"name": name, "kind": kind, "subject": subject, "proof": hex::encode(proof)})
}

type Case = (&'static str, &'static str, Vec<u8>, Vec<u8>);

fn cases(small: &Small) -> Vec<Case> {
    let mut cases = Vec::new();
    let paths: [(&str, &[u8]); 4] = [
        ("a file", MODEL),
        ("a removed file", b"/app/key"),
        ("a path that is no UTF-8", b"/app/new\n\xff"),
        ("a file that never was", b"/app/never"),
    ];
    for (name, path) in paths {
        cases.push((name, "file", path.to_vec(), small.prove_path(ProofKind::File, path).encode()));
        cases.push((name, "history", path.to_vec(), small.prove_path(ProofKind::History, path).encode()));
    }
    // One where nothing is near, and one beside another key.
    let absent = (0..50).map(|number| format!("/absent/{number}").into_bytes());
    let ends: Vec<_> = absent.map(|path| (small.prove_path(ProofKind::File, &path), path)).collect();
    let find =
        |empty: bool| ends.iter().find(|(proof, _)| (proof.map.end == map::End::Empty) == empty).unwrap();
    for (name, empty) in [("absent beside another", false), ("absent with nothing near", true)] {
        let (proof, path) = find(empty);
        cases.push((name, "file", path.clone(), proof.encode()));
    }
    for (name, stream, from) in [
        ("a whole stream", "app/agent", 0),
        ("the end of a stream", "app/agent", 2),
        ("a gap", "ledger", 0),
        ("a stream that never was", "egress", 0),
    ] {
        cases.push((name, "stream", stream.as_bytes().to_vec(), small.prove_stream(stream, from).encode()));
    }
    let mut none = small.prove_stream("app/agent", 0);
    none.chain.clear();
    cases.push(("none of a stream's entries", "stream", b"app/agent".to_vec(), none.encode()));
    cases
}

type Forgery = (&'static str, &'static str, Vec<u8>, Vec<u8>, &'static str);

fn forgeries(small: &Small) -> Vec<Forgery> {
    let honest = small.prove_path(ProofKind::File, MODEL);
    let history = small.prove_path(ProofKind::History, MODEL);
    let stream = small.prove_stream("app/agent", 0);
    let encoded = honest.encode();
    let altered = |proof: &Proof, change: &dyn Fn(&mut Proof)| {
        let mut proof = proof.clone();
        change(&mut proof);
        proof.encode()
    };
    let file = |name, proof, refusal| (name, "file", MODEL.to_vec(), proof, refusal);
    let past = |name, proof, refusal| (name, "history", MODEL.to_vec(), proof, refusal);
    let agent = |name, proof, refusal| (name, "stream", b"app/agent".to_vec(), proof, refusal);
    let mut not_reduced = honest.vrf.unwrap();
    not_reduced[79] = 0xff;
    vec![
        file("of another path", small.prove_path(ProofKind::File, b"/app/key").encode(), "Vrf"),
        file("with a scalar that is not reduced", altered(&honest, &|p| p.vrf = Some(not_reduced)), "Vrf"),
        file("of another kind", history.encode(), "Kind"),
        file("for another size", altered(&honest, &|p| p.size += 1), "Size"),
        file("cut", encoded[..encoded.len() - 1].to_vec(), "Decode"),
        file("followed by a byte", [&encoded[..], &[0]].concat(), "Decode"),
        file("empty", Vec::new(), "Decode"),
        file("of version 2", [&encoded[..1], &[2], &encoded[2..]].concat(), "Decode"),
        file(
            "with a size in two bytes more",
            [&encoded[..3], &[0x19, 0, 30], &encoded[5..]].concat(),
            "Decode",
        ),
        file("without the VRF's proof", altered(&honest, &|p| p.vrf = None), "Decode"),
        file(
            "denied: nothing there",
            altered(&honest, &|p| {
                p.map.end = map::End::Empty;
                p.chain.clear();
            }),
            "Map",
        ),
        file(
            "denied: the key as another one",
            altered(&honest, &|p| {
                let map::End::Value(value) = p.map.end else { panic!("a value") };
                let key = ledger::file_key(&small.vrf.output(MODEL));
                p.map.end = map::End::Other(key, value);
                p.chain.clear();
            }),
            "Map",
        ),
        file("another sibling", altered(&honest, &|p| p.map.siblings[0].0[0] ^= 1), "Map"),
        file("a sibling too few", altered(&honest, &|p| p.map.siblings.truncate(1)), "Map"),
        file("an older entry", altered(&honest, &|p| p.chain = history.chain[1..2].to_vec()), "Entry"),
        file(
            "another payload",
            altered(&honest, &|p| p.chain[0].payload = history.chain[1].payload.clone()),
            "Entry",
        ),
        file("another nonce", altered(&honest, &|p| p.chain[0].nonce[0] ^= 1), "Entry"),
        file("another path in the log", altered(&honest, &|p| p.chain[0].path[0].0[0] ^= 1), "Log"),
        file("a hash too many", altered(&honest, &|p| p.chain[0].path.push(Hash([0; 32]))), "Log"),
        file("two entries", altered(&honest, &|p| p.chain = history.chain[..2].to_vec()), "Count"),
        file("no entry", altered(&honest, &|p| p.chain.clear()), "Count"),
        past("without the first", altered(&history, &|p| drop(p.chain.pop())), "Count"),
        past("in the other order", altered(&history, &|p| p.chain.reverse()), "Entry"),
        past("one twice", altered(&history, &|p| p.chain[1] = p.chain[0].clone()), "Entry"),
        past("an entry of another file", altered(&history, &|p| p.chain[1] = small.open(24)), "Entry"),
        agent("without the last", altered(&stream, &|p| drop(p.chain.remove(0))), "Entry"),
        agent("without one between", altered(&stream, &|p| drop(p.chain.remove(1))), "Entry"),
        agent("more than there are", altered(&stream, &|p| p.chain.push(p.chain[2].clone())), "Count"),
        ("of another stream", "stream", b"app/other".to_vec(), stream.encode(), "Map"),
    ]
}

fn consistency(small: &Small) -> Value {
    let to = small.tree.size();
    let proof = |from| {
        let hashes = prove_consistency(&small.tree, from, to).unwrap();
        json!({
            "from": from, "from_root": small.root_at(from).to_string(), "to": to,
            "to_root": small.root_at(to).to_string(), "holds": true,
            "hashes": hashes.iter().map(|hash| json!(hash.to_string())).collect::<Value>(),
        })
    };
    let mut list: Vec<Value> = [0, 1, 4, 7, 16, 29, 30].map(proof).to_vec();
    let mut forked = proof(7);
    forked["from_root"] = json!(small.root_at(8).to_string());
    forked["holds"] = json!(false);
    let mut cut = proof(7);
    cut["hashes"].as_array_mut().unwrap().pop();
    cut["holds"] = json!(false);
    let empty = proof(0)["from_root"].clone();
    let none = |from_root: &Value, to_root: &Value, holds: bool| json!({ "from": 0, "from_root": from_root, "to": 0, "to_root": to_root, "holds": holds, "hashes": [] });
    let other = json!(small.root_at(1).to_string());
    list.extend([
        forked,
        cut,
        none(&empty, &empty, true),
        none(&empty, &other, false),
        none(&other, &other, false),
    ]);
    list.into()
}

fn checkpoints() -> Value {
    let small = example();
    let (key, origin) = (small.signing.public(), small.signing.name());
    let valid = |checkpoint: Checkpoint, note: String| json!({"note": note, "size": checkpoint.size.to_string(), "log_root": checkpoint.log_root.to_string(), "map_root": checkpoint.map_root.to_string()});
    let checkpoint = small.checkpoint();
    let note = checkpoint.sign(&small.signing);
    let witness = SigningKey::from_seed(&[9; 32], |_| "witness.example/w1".to_owned()).unwrap();
    let cosigned = format!("{note}{}", witness.cosign(&checkpoint.to_text(origin), 1_700_000_000));
    let stranger = SigningKey::from_seed(&[8; 32], |_| origin.to_owned()).unwrap();
    let renamed = SigningKey::from_seed(&[1; 32], |_| "glasshouse/other".to_owned()).unwrap();
    let refused = [
        ("another size", note.replacen("\n30\n", "\n31\n", 1)),
        ("a zero before the size", note.replacen("\n30\n", "\n030\n", 1)),
        ("another root", note.replacen("map ", "map A", 1)),
        ("signed by a stranger of the same name", checkpoint.sign(&stranger)),
        ("signed under another name", checkpoint.sign(&renamed)),
        ("without a signature", checkpoint.to_text(origin)),
        ("cut", note[..note.len() - 1].to_owned()),
        ("with a carriage return", note.replacen('\n', "\r\n", 1)),
        ("empty", String::new()),
    ];
    json!({
        "origin": origin, "ledger_key": hex::encode(small.signing.public_bytes()),
        "vrf_key": hex::encode(small.vrf_key()), "verifier_key": key.verifier_text(),
        "witness": {"key": witness.public().verifier_text(), "time": "1700000000"},
        "valid": [valid(Checkpoint::empty(), Checkpoint::empty().sign(&small.signing)), valid(checkpoint, note), valid(checkpoint, cosigned)],
        "refused": refused.map(|(name, note)| json!({"name": name, "note": note})),
        "tiles": ["tile/0/000", "tile/0/255", "tile/1/x001/x234/067", "tile/entries/x001/000.p/1", "tile/7/000.p/255"],
        "no_tiles": ["tile/8/000", "tile/0/0", "tile/0/0000", "tile/0/x000/001", "tile/0/001/002", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/01/000", "tile/-1/000", "tile/data/000", "0/000", ""],
    })
}
