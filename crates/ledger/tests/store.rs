//! A ledger in a file against a model of what it should hold.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use ledger::store::{Appended, Error, Event, Ledger, Options};
use ledger::{
    Anchor, Checkpoint, FileNow, Gap, GapReason, Record, StreamName, StreamPayload, log::verify_consistency,
};
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use support::{file, removed};

fn open(path: &Path, time: u64) -> Ledger {
    Ledger::open(path, time, Options::default()).unwrap()
}

fn anchor(ledger: &Ledger, checkpoint: Checkpoint) -> Anchor {
    Anchor::new(checkpoint, &ledger.vrf_key()).unwrap()
}

/// What the ledger should hold.
#[derive(Clone, Default)]
struct Model {
    files: BTreeMap<Vec<u8>, Vec<(u64, Record)>>,
    streams: BTreeMap<StreamName, Vec<(u64, Vec<u8>)>>,
    size: u64,
}

impl Model {
    fn take(&mut self, time: u64, event: &Event) -> Appended {
        let index = self.size;
        self.size += 1;
        let before = match event {
            Event::File { file, record } => {
                let history = self.files.entry(file.path().to_vec()).or_default();
                history.push((time, record.clone()));
                history.len() - 1
            }
            Event::Stream { name, payload } => {
                let stream = self.streams.entry(name.clone()).or_default();
                stream.push((time, payload.clone()));
                stream.len() - 1
            }
            other => panic!("the model has no {other:?}"),
        };
        Appended { index, sequence: before as u64 }
    }

    /// Everything that can be asked, answered with proofs at `at`, and verified.
    fn check(&self, ledger: &Ledger, anchor: &Anchor, at: u64) {
        assert_eq!(anchor.checkpoint().size, at);
        for (path, expected) in &self.files {
            let proof = ledger.prove_history(path, Some(at)).unwrap();
            let history = anchor.verify_history(path, &proof).unwrap();
            let found: Vec<_> = history.iter().map(|one| (one.time, one.record.clone())).collect();
            assert_eq!(&found, expected);
            let proof = ledger.prove_file(path, Some(at)).unwrap();
            assert_eq!(
                anchor.verify_file(path, &proof).unwrap(),
                FileNow::Recorded(history.last().unwrap().clone())
            );
        }
        for (name, expected) in &self.streams {
            for from in [0, expected.len() as u64 / 2, expected.len() as u64] {
                let proof = ledger.prove_stream(name, from, Some(at)).unwrap();
                let end = anchor.verify_stream(name, &proof).unwrap();
                assert_eq!((end.count, end.is_complete()), (expected.len() as u64, from == 0));
                let found = end.entries.into_iter().map(|entry| (entry.time, bytes(entry.payload)));
                assert_eq!(found.collect::<Vec<_>>(), expected[usize::try_from(from).unwrap()..]);
            }
        }
        let never = ledger.prove_file(b"/never", Some(at)).unwrap();
        assert_eq!(anchor.verify_file(b"/never", &never).unwrap(), FileNow::Never);
        let never = ledger.prove_history(b"/never", Some(at)).unwrap();
        assert_eq!(anchor.verify_history(b"/never", &never).unwrap(), Vec::new());
        let name: StreamName = "app/never".parse().unwrap();
        let never = ledger.prove_stream(&name, 0, Some(at)).unwrap();
        assert_eq!(anchor.verify_stream(&name, &never).unwrap().count, 0);
    }
}

fn bytes(payload: StreamPayload) -> Vec<u8> {
    match payload {
        StreamPayload::Bytes(bytes) => bytes,
        StreamPayload::Gap(gap) => panic!("{gap:?}"),
    }
}

fn event(ledger: &Ledger, random: &mut TestRng) -> Event {
    let (which, what) = (random.random_range(0..40_u32), random.random_range(0..8_u32));
    match what {
        0 => Event::Stream {
            name: ["app/agent", "egress"][which as usize % 2].parse().unwrap(),
            payload: which.to_be_bytes()[..which as usize % 4].to_vec(),
        },
        1 => Event::File { file: ledger.file(path(which)).unwrap(), record: removed() },
        _ => Event::File { file: ledger.file(path(which)).unwrap(), record: file(&what.to_be_bytes()) },
    }
}

/// Names with newlines and bytes that are no UTF-8 among them.
fn path(which: u32) -> Vec<u8> {
    [&b"/app/\n\xff"[..], which.to_string().as_bytes()].concat()
}

#[test]
fn random_operations_leave_what_a_model_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut random = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let ledger = open(&path, 0);
    let (mut model, mut old) = (Model::default(), Vec::new());
    for time in 0..60 {
        let events: Vec<_> = (0..random.random_range(0..12)).map(|_| event(&ledger, &mut random)).collect();
        let expected: Vec<_> = events.iter().map(|event| model.take(time, event)).collect();
        assert_eq!(ledger.append(time, events).unwrap(), expected);
        if time % 15 == 0 {
            old.push((anchor(&ledger, ledger.checkpoint()), model.clone()));
        }
    }
    old.push((anchor(&ledger, ledger.checkpoint()), model.clone()));
    for (anchor, model) in &old {
        model.check(&ledger, anchor, model.size);
    }
    for (anchor, model) in &old {
        let size = Some(anchor.checkpoint().size);
        for file in ledger.files(None, 1000).unwrap() {
            let last = ledger.last_at(&file, size).unwrap().map(|last| (last.time, last.record));
            assert_eq!(last.as_ref(), model.files.get(file.path()).and_then(|records| records.last()));
        }
    }
    for pair in old.windows(2) {
        let (from, to) = (pair[0].0.checkpoint(), pair[1].0.checkpoint());
        let proof = ledger.prove_consistency(from.size, to.size).unwrap();
        verify_consistency(from.size, &from.log_root, to.size, &to.log_root, &proof).unwrap();
    }
    let paths: Vec<_> = ledger.files(None, 1000).unwrap().iter().map(|file| file.path().to_vec()).collect();
    assert_eq!(paths, model.files.keys().cloned().collect::<Vec<_>>());
    for file in ledger.files(Some(&paths[2]), 3).unwrap() {
        assert!(paths[3..6].contains(&file.path().to_vec()));
        let last = ledger.last(&file).unwrap().unwrap();
        assert_eq!(Some(&(last.time, last.record.clone())), model.files[file.path()].last());
        assert_eq!(ledger.history(&file, 1).unwrap(), [last]);
    }
    for (name, expected) in &model.streams {
        assert_eq!(ledger.value(&name.key()).unwrap().count, expected.len() as u64);
        let found = ledger.stream(name, 1, 2).unwrap();
        let found: Vec<_> = found.into_iter().map(|entry| (entry.time, bytes(entry.payload))).collect();
        assert_eq!(found, expected[1..3]);
    }
    assert_eq!(ledger.entries(3, 2).unwrap().iter().map(|entry| entry.0).collect::<Vec<_>>(), [3, 4]);
}

/// Takes minutes: `cargo test -p glasshouse-ledger --features store --test store -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn a_million_operations_leave_what_a_model_holds() {
    const ROUNDS: u64 = 1000;
    const PATHS: u32 = 5000;
    let folder = tempfile::tempdir().unwrap();
    let ledger_path = folder.path().join("ledger");
    let mut random = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut ledger = open(&ledger_path, 0);
    let files: Vec<_> = (0..PATHS).map(|which| ledger.file(path(which)).unwrap()).collect();
    let (mut model, mut seen) = (Model::default(), Checkpoint::empty());
    for time in 0..ROUNDS {
        let events = (0..1000).map(|_| match random.random_range(0..4 * PATHS) {
            which if which < 100 => {
                let name = format!("app/{}", which % 20).parse().unwrap();
                Event::Stream { name, payload: which.to_be_bytes().to_vec() }
            }
            which => {
                let file_of = files[(which % PATHS) as usize].clone();
                let record = if which % 7 == 0 { removed() } else { file(&which.to_be_bytes()) };
                Event::File { file: file_of, record }
            }
        });
        let events: Vec<_> = events.collect();
        let expected: Vec<_> = events.iter().map(|event| model.take(time, event)).collect();
        assert_eq!(ledger.append(time, events).unwrap(), expected);
        if time % 100 == 99 {
            drop(ledger);
            ledger = open(&ledger_path, time);
            // The gap, which the model does not know.
            model.size += 1;
            let now = ledger.checkpoint();
            let proof = ledger.prove_consistency(seen.size, now.size).unwrap();
            verify_consistency(seen.size, &seen.log_root, now.size, &now.log_root, &proof).unwrap();
            seen = now;
            assert_eq!(now.size, model.size);
            let some = model.files.iter().skip(usize::try_from(time).unwrap()).step_by(97);
            let files = some.map(|(path, history)| (path.clone(), history.clone())).collect();
            let sample = Model { files, streams: model.streams.clone(), size: model.size };
            sample.check(&ledger, &anchor(&ledger, now), now.size);
        }
    }
    assert_eq!(model.size, 1_000_010);
    for file in &files {
        let (last, expected) = (ledger.last(file).unwrap(), model.files.get(file.path()));
        let last = last.map(|last| (last.time, last.record));
        assert_eq!(last.as_ref(), expected.and_then(|history| history.last()));
    }
}

#[test]
fn what_is_opened_again_is_the_same_with_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledger = open(&path, 5);
    assert_eq!(ledger.checkpoint(), Checkpoint::empty());
    let event = Event::File { file: ledger.file(b"/a".to_vec()).unwrap(), record: file(b"a") };
    ledger.append(10, vec![event]).unwrap();
    let (keys, before) = ((ledger.origin().to_owned(), ledger.vrf_key()), ledger.checkpoint());
    let baseline = ledger.baseline();
    assert_eq!((baseline.checkpoint, baseline.origin()), (before, keys.0.clone()));
    drop(ledger);

    let ledger = open(&path, 20);
    assert_eq!((ledger.origin().to_owned(), ledger.vrf_key()), keys);
    let after = ledger.checkpoint();
    let proof = ledger.prove_consistency(before.size, after.size).unwrap();
    verify_consistency(before.size, &before.log_root, after.size, &after.log_root, &proof).unwrap();
    let proof = ledger.prove_stream(&StreamName::ledger(), 0, None).unwrap();
    let gaps = anchor(&ledger, after).verify_stream(&StreamName::ledger(), &proof).unwrap();
    assert!(gaps.is_complete());
    let [gap] = gaps.entries.as_slice() else { panic!("{gaps:?}") };
    let expected = Gap { reason: GapReason::Restart, since: 10, detail: String::new() };
    assert_eq!((gap.time, &gap.payload), (20, &StreamPayload::Gap(expected)));
    assert_eq!(ledger.stream(&StreamName::ledger(), 0, 9).unwrap(), gaps.entries);
}

#[test]
fn a_ledger_is_open_once_and_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledger = open(&path, 0);
    assert!(matches!(Ledger::open(&path, 0, Options::default()), Err(Error::AlreadyOpen)));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside it is left");
    drop(ledger);
    open(&path, 0);
}

#[test]
fn a_file_that_is_no_ledger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    assert!(matches!(Ledger::open(&path, 0, Options::default()), Err(Error::Storage(_))));
    let missing = folder.path().join("missing/ledger");
    assert!(matches!(Ledger::open(&missing, 0, Options::default()), Err(Error::File { .. })));
}

#[test]
fn what_cannot_be_appended_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("ledger"), 0);
    let name: StreamName = "app/a".parse().unwrap();
    let good = Event::Stream { name: name.clone(), payload: vec![1] };
    let long = Event::Stream { name, payload: vec![0; ledger::MAX_PAYLOAD_BYTES + 1] };
    let refused = ledger.append(0, vec![good.clone(), long]);
    assert!(matches!(refused, Err(Error::PayloadTooLong { found: 65_537 })), "{refused:?}");
    let own = Event::Stream { name: StreamName::ledger(), payload: Vec::new() };
    assert!(matches!(ledger.append(0, vec![good, own]), Err(Error::Reserved)));
    assert!(matches!(ledger.file(vec![b'a'; 4097]), Err(Error::PathTooLong { found: 4097 })));
    assert_eq!(ledger.size(), 0);
    assert_eq!(ledger.append(0, Vec::new()).unwrap(), []);
}

#[test]
fn sizes_that_were_not_handed_out_are_not_proven() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("ledger"), 0);
    let append = |payload| {
        let name = "app/a".parse().unwrap();
        ledger.append(0, vec![Event::Stream { name, payload: vec![payload] }]).unwrap();
    };
    append(1);
    let handed_out = ledger.checkpoint();
    append(2);
    append(3);
    assert!(matches!(ledger.prove_file(b"/a", Some(2)), Err(Error::NotRetained { size: 2 })));
    assert!(matches!(ledger.prove_file(b"/a", Some(4)), Err(Error::NotRetained { size: 4 })));
    let proof = ledger.prove_file(b"/a", Some(1)).unwrap();
    assert_eq!(anchor(&ledger, handed_out).verify_file(b"/a", &proof).unwrap(), FileNow::Never);
    for (from, to) in [(3, 2), (0, 4)] {
        let found = ledger.prove_consistency(from, to);
        assert!(matches!(found, Err(Error::Range { size: 3, .. })), "{found:?}");
    }
}

#[test]
fn many_threads_append_and_prove_at_the_same_time() {
    const THREADS: u64 = 6;
    const ROUNDS: u64 = 15;
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(&folder.path().join("ledger"), 0));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let name: StreamName = format!("app/{thread}").parse().unwrap();
                for round in 0..ROUNDS {
                    let event = Event::Stream { name: name.clone(), payload: vec![7; 3] };
                    let [own] = ledger.append(round, vec![event]).unwrap()[..] else { panic!("one") };
                    assert_eq!(own.sequence, round);
                    let checkpoint = ledger.checkpoint();
                    assert!(checkpoint.size > own.index);
                    let proof = ledger.prove_stream(&name, 0, Some(checkpoint.size)).unwrap();
                    let end = anchor(&ledger, checkpoint).verify_stream(&name, &proof).unwrap();
                    assert_eq!(end.entries.last().unwrap().index, own.index);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((ledger.size(), ledger.subjects()), (THREADS * ROUNDS, THREADS));
}
