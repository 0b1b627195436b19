//! Records for tests, and a ledger in memory that is made of the crate's parts alone, with fixed keys.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::collections::BTreeMap;

use ledger::log::{Tree, leaf_hash, prove_inclusion, root};
use ledger::map::{End, Map};
use ledger::{
    Algorithm, Anchor, Attributes, Cause, Checkpoint, Content, Digests, Entry, Key, Kind, Nonces, Opened,
    Proof, ProofKind, Record, SigningKey, State, StreamName, Value, commitment, file_key, origin,
};

/// A record of a file that holds `content`.
pub(crate) fn file(content: &[u8]) -> Record {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(content);
    let digests = Digests::new().with(Algorithm::Sha256, &digest);
    let attributes = Attributes { mode: 0o644, uid: 1000, gid: 1000, mtime: -7 };
    let content = Content::File { size: content.len() as u64, digests };
    Record { cause: Cause::Event, state: State::Present(attributes, content) }
}

/// A record that says that there is nothing any more.
pub(crate) fn removed() -> Record {
    Record { cause: Cause::Sweep, state: State::Removed }
}

/// A ledger in memory.
pub(crate) struct Small {
    pub(crate) signing: SigningKey,
    pub(crate) vrf: vrf::SecretKey,
    nonces: Nonces,
    pub(crate) tree: Tree,
    pub(crate) map: Map,
    pub(crate) entries: Vec<Vec<u8>>,
    payloads: Vec<Vec<u8>>,
    heads: BTreeMap<Key, Value>,
}

impl Small {
    pub(crate) fn new() -> Self {
        let vrf = vrf::SecretKey::from_bytes(vrf::Suite::Edwards25519Sha512Tai, &[2; 32]).unwrap();
        let vrf_key: [u8; 32] = vrf.public_key().as_bytes().try_into().unwrap();
        Self {
            signing: SigningKey::from_seed(&[1; 32], |key| origin(key, &vrf_key)).unwrap(),
            vrf,
            nonces: Nonces::new(&[3; 32]),
            tree: Tree::new(),
            map: Map::new(),
            entries: Vec::new(),
            payloads: Vec::new(),
            heads: BTreeMap::new(),
        }
    }

    pub(crate) fn vrf_key(&self) -> [u8; 32] {
        self.vrf.public_key().as_bytes().try_into().unwrap()
    }

    pub(crate) fn file(&mut self, time: u64, path: &[u8], record: &Record) {
        let key = file_key(&self.vrf.output(path));
        self.push(Kind::File, time, key, record.encode());
    }

    pub(crate) fn stream(&mut self, time: u64, name: &str, payload: &[u8]) {
        let name: StreamName = name.parse().unwrap();
        self.push(Kind::Stream, time, name.key(), payload.to_vec());
    }

    pub(crate) fn push(&mut self, kind: Kind, time: u64, subject: Key, payload: Vec<u8>) {
        let head = self.heads.get(&subject).copied();
        let (sequence, previous) = head.map_or((0, None), |head| (head.count, Some(head.last)));
        let commitment = commitment(&self.nonces.nonce(&subject, sequence, &payload), &payload);
        let entry = Entry { kind, time, subject, sequence, previous, commitment };
        let value = Value { count: sequence + 1, last: self.tree.size(), leaf: entry.leaf_hash() };
        self.tree.push(value.leaf);
        self.heads.insert(subject, value);
        self.map.apply(vec![(subject, value)]);
        self.entries.push(entry.encode());
        self.payloads.push(payload);
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: self.tree.size(), log_root: self.tree.root(), map_root: self.map.root() }
    }

    pub(crate) fn anchor(&self) -> Anchor {
        Anchor::new(self.checkpoint(), &self.vrf_key()).unwrap()
    }

    pub(crate) fn prove_path(&self, kind: ProofKind, path: &[u8]) -> Proof {
        let vrf = self.vrf.prove(path);
        let from = if kind == ProofKind::File { u64::MAX } else { 0 };
        let key = file_key(&vrf.output());
        let vrf = Some(vrf.as_bytes().try_into().unwrap());
        Proof { kind, vrf, ..self.prove_key(key, from) }
    }

    pub(crate) fn prove_stream(&self, name: &str, from: u64) -> Proof {
        self.prove_key(name.parse::<StreamName>().unwrap().key(), from)
    }

    /// Of the entries from number `from` on, the last one at least.
    fn prove_key(&self, key: Key, from: u64) -> Proof {
        let (size, map) = (self.tree.size(), self.map.prove(&key));
        let (mut chain, mut next) = (Vec::new(), None);
        if let End::Value(value) = map.end {
            next = Some(value.last);
        }
        while let Some(index) = next {
            let opened = self.open(index);
            let entry = Entry::decode(&opened.entry).unwrap();
            next = entry.previous.filter(|_| entry.sequence > from);
            chain.push(opened);
        }
        Proof { kind: ProofKind::Stream, size, vrf: None, map, chain }
    }

    pub(crate) fn open(&self, index: u64) -> Opened {
        let at = usize::try_from(index).unwrap();
        let entry = Entry::decode(&self.entries[at]).unwrap();
        assert_eq!(leaf_hash(&self.entries[at]), entry.leaf_hash());
        let payload = self.payloads[at].clone();
        let nonce = self.nonces.nonce(&entry.subject, entry.sequence, &payload);
        let path = prove_inclusion(&self.tree, index, self.tree.size()).unwrap();
        Opened { entry: self.entries[at].clone(), path, nonce, payload }
    }

    pub(crate) fn root_at(&self, size: u64) -> ledger::Hash {
        root(&self.tree, size).unwrap()
    }
}

/// Files and streams with some history among many others.
pub(crate) fn example() -> Small {
    let mut small = Small::new();
    for number in 0..20_u64 {
        small.file(1000 + number, format!("/other/{number}").as_bytes(), &file(&number.to_be_bytes()));
    }
    small.file(2000, b"/app/model.bin", &file(b"first"));
    small.stream(2001, "app/agent", b"hello");
    small.file(2002, b"/app/model.bin", &file(b"second"));
    small.stream(2003, "app/agent", b"");
    small.file(2004, b"/app/key", &file(b"secret"));
    small.file(2005, b"/app/model.bin", &file(b"third"));
    small.file(2006, b"/app/key", &removed());
    small.stream(2007, "app/agent", b"bye");
    small.file(2008, b"/app/new\n\xff", &file(b"once"));
    let gap = ledger::Gap { reason: ledger::GapReason::Restart, since: 2008, detail: "again".to_owned() };
    small.push(Kind::Gap, 3000, StreamName::ledger().key(), gap.encode());
    small
}
