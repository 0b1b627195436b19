//! What existing tools of C2SP formats make of our checkpoints and tiles: `signed_note` and `tlog_tiles`, of another author.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ledger::store::{Event, Ledger, Options};
use ledger::tile::TileName;
use ledger::{Checkpoint, Note, NoteError, NoteKey, SigningKey, log};
use signed_note::{StandardVerifier, VerifierList};
use tlog_tiles::{
    Tile, TileHashReader, TileReader, check_record, check_tree, prove_record, prove_tree, record_hash,
};

const ENTRIES: u64 = 600;

fn filled() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger"), 0, Options::default()).unwrap();
    let events = (0..ENTRIES).map(|number| Event::Stream {
        name: format!("app/{}", number % 7).parse().unwrap(),
        payload: number.to_be_bytes().to_vec(),
    });
    ledger.append(1, events.collect()).unwrap();
    (folder, ledger)
}

/// The note as the other implementation verifies it.
fn theirs(note: &str, key: &NoteKey) -> (tlog_tiles::Checkpoint, usize) {
    let verifier = StandardVerifier::new(&key.verifier_text()).unwrap();
    let parsed = signed_note::Note::from_bytes(note.as_bytes()).unwrap();
    let (verified, _) = parsed.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    (tlog_tiles::Checkpoint::from_bytes(parsed.text()).unwrap(), verified.len())
}

#[test]
fn checkpoints_are_signed_notes_that_others_verify() {
    let (_folder, ledger) = filled();
    let (checkpoint, note) = ledger.signed_checkpoint();
    let key = NoteKey::new(ledger.origin(), ledger.ledger_key()).unwrap();
    let (theirs, signatures) = theirs(&note, &key);
    assert_eq!((theirs.origin(), theirs.size(), signatures), (ledger.origin(), ENTRIES, 1));
    assert_eq!(theirs.hash().0, checkpoint.log_root.0);
    assert!(theirs.extension().starts_with("map "));
    assert_eq!(Checkpoint::open(note.as_bytes(), &key).unwrap(), checkpoint);
    assert_eq!(ledger.baseline().origin(), ledger.origin());
}

/// The ledger's tiles as files of a static server.
struct Files<'a>(&'a Ledger);

impl TileReader for Files<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        // This library's names have the height in them, which C2SP left out.
        let name = |tile: &Tile| tile.path().replacen("tile/8/", "tile/", 1).parse::<TileName>().unwrap();
        Ok(tiles.iter().map(|tile| self.0.tile(&name(tile)).unwrap().unwrap()).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

#[test]
fn tiles_lead_others_to_the_root_and_to_entries() {
    let (_folder, ledger) = filled();
    let checkpoint = ledger.checkpoint();
    let root = tlog_tiles::Hash(checkpoint.log_root.0);
    let files = Files(&ledger);
    let reader = TileHashReader::new(ENTRIES, root, &files);
    let bundles = bundles(&ledger);
    assert_eq!(bundles.len(), 600);
    for index in [0, 1, 255, 256, 511, 512, 598, 599] {
        let entry = &bundles[usize::try_from(index).unwrap()];
        let proof = prove_record(ENTRIES, index, &reader).unwrap();
        check_record(&proof, ENTRIES, root, index, record_hash(entry)).unwrap();
        let hashes: Vec<_> = proof.iter().map(|hash| ledger::Hash(hash.0)).collect();
        log::verify_inclusion(&log::leaf_hash(entry), index, ENTRIES, &checkpoint.log_root, &hashes).unwrap();
    }
    let old = 300;
    let old_root = tlog_tiles::tree_hash(old, &reader).unwrap();
    let ours: Vec<_> = ledger.prove_consistency(old, ENTRIES).unwrap();
    let theirs = prove_tree(ENTRIES, old, &reader).unwrap();
    check_tree(&theirs, ENTRIES, root, old, old_root).unwrap();
    let old_root = ledger::Hash(old_root.0);
    log::verify_consistency(old, &old_root, ENTRIES, &checkpoint.log_root, &ours).unwrap();
}

/// All entries, from bundles of entries.
fn bundles(ledger: &Ledger) -> Vec<Vec<u8>> {
    let names = ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"];
    let mut entries = Vec::new();
    for name in names {
        let bundle = ledger.tile(&name.parse().unwrap()).unwrap().unwrap();
        let mut rest = &bundle[..];
        while let Some((length, tail)) = rest.split_first_chunk() {
            let (entry, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)));
            entries.push(entry.to_vec());
            rest = tail;
        }
    }
    entries
}

#[test]
fn tiles_that_the_log_does_not_have_are_not_there() {
    let (_folder, ledger) = filled();
    for (name, there) in [
        ("tile/0/002.p/88", true),
        ("tile/0/002.p/87", true),
        ("tile/0/002.p/89", false),
        ("tile/0/002", false),
        ("tile/1/000.p/2", true),
        ("tile/1/000.p/3", false),
        ("tile/2/000.p/1", false),
        ("tile/7/000.p/1", false),
        ("tile/entries/003.p/1", false),
        ("tile/entries/x018/x446/x744/x073/x709/x551/615", false),
    ] {
        let tile = ledger.tile(&name.parse().unwrap()).unwrap();
        assert_eq!(tile.is_some(), there, "{name}");
    }
    for name in
        ["tile/8/000", "tile/0/0", "tile/0/x000/001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/00/000"]
    {
        assert!(name.parse::<TileName>().is_err(), "{name}");
    }
}

#[test]
fn witnesses_add_a_signature_with_a_time() {
    let (_folder, ledger) = filled();
    let (checkpoint, note) = ledger.signed_checkpoint();
    let key = NoteKey::new(ledger.origin(), ledger.ledger_key()).unwrap();
    let witness = SigningKey::from_seed(&[9; 32], |_| "witness.example/w1".to_owned()).unwrap();
    let line = witness.cosign(&checkpoint.to_text(ledger.origin()), 1_700_000_000);
    let note = format!("{note}{line}");
    assert_eq!(Checkpoint::open(note.as_bytes(), &key).unwrap(), checkpoint);
    let decoded = Note::decode(note.as_bytes()).unwrap();
    assert_eq!(decoded.verify_witness(witness.public()), Ok(1_700_000_000));
    assert_eq!(decoded.verify_witness(&key), Err(NoteError::NotSigned));
    assert_eq!(decoded.verify(witness.public()), Err(NoteError::NotSigned));
    // Others pass it over.
    assert_eq!(theirs(&note, &key).1, 1);
    let moved = note.replace(&format!("\n{ENTRIES}\n"), "\n601\n");
    let moved = Note::decode(moved.as_bytes()).unwrap();
    assert_eq!(moved.verify_witness(witness.public()), Err(NoteError::Signature));
    assert_eq!(moved.verify(&key), Err(NoteError::Signature));
}

#[test]
fn keys_are_read_as_others_write_them() {
    let witness = SigningKey::from_seed(&[9; 32], |_| "witness.example/w1".to_owned()).unwrap();
    let text = witness.public().verifier_text();
    assert_eq!(text.parse::<NoteKey>().as_ref(), Ok(witness.public()));
    // Type 4, as `sha256(name || 0A || 04 || key)` has it.
    let key = [&[4][..], witness.public_bytes()].concat();
    let id = [b"witness.example/w1\n", &key[..]].concat();
    let id: String = digest(&SHA256, &id).as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let typed = format!("witness.example/w1+{id}+{}", BASE64.encode(&key));
    assert_eq!(typed.parse::<NoteKey>().as_ref(), Ok(witness.public()));
    // Name, id, type and length are each looked at.
    let other_type = format!("witness.example/w1+{id}+{}", BASE64.encode([&[2], &key[1..]].concat()));
    for wrong in [
        text.replacen("w1", "w2", 1),
        text.replacen("w1+", "w1+0", 1),
        text[..text.len() - 4].to_owned(),
        typed.replacen("w1", "w 1", 1),
        other_type,
        "name".to_owned(),
        "name+00000000".to_owned(),
        "name+00000000+".to_owned(),
        String::new(),
    ] {
        assert!(wrong.parse::<NoteKey>().is_err(), "{wrong}");
    }
}
