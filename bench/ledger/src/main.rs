//! Measures the ledger: the VRF, its map beside `jmt`, proofs, verification, memory, and appends.
//!
//! Usage: ledger [vrf] [map] [jmt] [ledger] [append]        (all without words; each in a process of its own)
//! Environment: KEYS (1000000), FOLDER (where files are written, /dev/shm)
#![allow(clippy::print_stdout, clippy::exit, reason = "a program that prints")]

use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, path::PathBuf, sync::Arc, thread};

use anyhow::Context as _;
use jmt::{JellyfishMerkleTree, KeyHash, mock::MockTreeStore, storage::TreeWriter as _};
use ledger::log::{leaf_hash, verify_inclusion};
use ledger::map::{Key, Map, Value};
use ledger::store::{Event, File, Ledger, Options};
use ledger::{
    Algorithm, Anchor, Attributes, Cause, Checkpoint, Content, Digests, Entry, FileNow, Hash, Proof, Record,
    State,
};
use sha2::Sha256;

type Result<T = ()> = anyhow::Result<T>;

fn main() -> Result {
    let parts: Vec<String> = env::args().skip(1).collect();
    match parts.as_slice() {
        [part] => run(part),
        _ => {
            let all = ["vrf", "map", "jmt", "ledger", "append"].map(str::to_owned).to_vec();
            for part in if parts.is_empty() { all } else { parts } {
                let status = Command::new(env::current_exe()?).arg(&part).status()?;
                anyhow::ensure!(status.success(), "{part} failed");
            }
            Ok(())
        }
    }
}

fn run(part: &str) -> Result {
    match part {
        "vrf" => vrf(),
        "map" => map(),
        "jmt" => jellyfish(),
        "ledger" => ledger(),
        "append" => append(),
        other => anyhow::bail!("{other} is none of vrf, map, jmt, ledger, append"),
    }
}

fn keys() -> u64 {
    env::var("KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000)
}

fn folder() -> Result<tempfile::TempDir> {
    let folder = env::var_os("FOLDER").map_or(PathBuf::from("/dev/shm"), PathBuf::from);
    tempfile::tempdir_in(folder).context("a folder for the ledger")
}

/// Resident memory of this process, in MiB, and the most that it ever was.
fn memory() -> Result<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    Ok((line("VmRSS:").context("VmRSS")? / 1024, line("VmHWM:").context("VmHWM")? / 1024))
}

/// Median and 99th percentile of the processor time of one call, in microseconds: what others do on the machine does not
/// count.
fn measured(times: u64, call: impl FnMut(u64)) -> String {
    timed(times, call, processor)
}

/// Processor time of this thread so far.
fn processor() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("below a second"))
}

/// The same of the time that passes.
fn passed(times: u64, call: impl FnMut(u64)) -> String {
    let start = Instant::now();
    timed(times, call, || start.elapsed())
}

fn timed(times: u64, call: impl FnMut(u64), clock: impl Fn() -> Duration) -> String {
    let all = sorted(times, call, clock);
    let at = |share: usize| all[(all.len() - 1) * share / 100].as_nanos() as f64 / 1000.0;
    format!("median {:.1} µs, p99 {:.1} µs", at(50), at(99))
}

fn sorted(times: u64, mut call: impl FnMut(u64), clock: impl Fn() -> Duration) -> Vec<Duration> {
    let mut all: Vec<Duration> = (0..times)
        .map(|number| {
            let start = clock();
            call(number);
            clock() - start
        })
        .collect();
    all.sort();
    all
}

fn vrf() -> Result {
    let suite = vrf::Suite::Edwards25519Sha512Tai;
    let secret = vrf::SecretKey::from_bytes(suite, &[7; 32])?;
    let input = |number: u64| format!("/app/some/folder/of/files/{number}").into_bytes();
    println!("vrf output: {}", measured(3000, |number| drop(secret.output(&input(number)))));
    println!("vrf prove: {}", measured(3000, |number| drop(secret.prove(&input(number)))));
    let proof = secret.prove(&input(1));
    println!("vrf verify: {}", measured(3000, |_| drop(secret.public_key().verify(&input(1), &proof))));
    Ok(())
}

fn key(number: u64) -> Key {
    Key(leaf_hash(&number.to_be_bytes()).0)
}

fn value(number: u64) -> Value {
    Value { count: 1, last: number, leaf: Hash([7; 32]) }
}

const BATCH: u64 = 10_000;

fn map() -> Result {
    let (keys, before) = (keys(), memory()?.0);
    let mut map = Map::new();
    let start = Instant::now();
    for first in (0..keys).step_by(BATCH as usize) {
        map.apply((first..keys.min(first + BATCH)).map(|number| (key(number), value(number))).collect());
    }
    report("map", keys, start.elapsed(), before)?;
    println!("map proof: {}", measured(20_000, |number| drop(map.prove(&key(number * 7 % keys)))));
    let (asked, root) = (key(keys / 2), map.root());
    let proof = map.prove(&asked);
    println!(
        "map proof, verified: {}",
        measured(20_000, |_| {
            let _ = std::hint::black_box(proof.verify(&asked, &root));
        })
    );
    println!("map, one key changed: {}", measured(20_000, |number| map.apply(vec![(key(number), value(1))])));
    Ok(())
}

fn report(what: &str, keys: u64, time: Duration, before: u64) -> Result {
    let memory = memory()?.0 - before;
    let (rate, each) = (keys as f64 / time.as_secs_f64(), memory as f64 * 1_048_576.0 / keys as f64);
    println!("{what}: {keys} keys in batches of {BATCH}: {rate:.0}/s, {memory} MiB ({each:.0} bytes a key)");
    Ok(())
}

fn jellyfish() -> Result {
    let (keys, before) = (keys(), memory()?.0);
    let store = MockTreeStore::default();
    let tree = JellyfishMerkleTree::<_, Sha256>::new(&store);
    let hash = |number: u64| KeyHash(key(number).0);
    let start = Instant::now();
    for (version, first) in (0..keys).step_by(BATCH as usize).enumerate() {
        let set = (first..keys.min(first + BATCH)).map(|number| (hash(number), Some(vec![7; 48])));
        let (_, batch) = tree.put_value_set(set, version as u64)?;
        store.write_node_batch(&batch.node_batch)?;
    }
    report("jmt", keys, start.elapsed(), before)?;
    let version = keys.div_ceil(BATCH) - 1;
    let prove = |number| tree.get_with_proof(hash(number), version).expect("a key of the tree");
    println!("jmt proof: {}", measured(20_000, |number| drop(prove(number * 7 % keys))));
    let (root, (value, proof)) = (tree.get_root_hash(version)?, prove(keys / 2));
    let value = value.context("a value")?;
    println!(
        "jmt proof, verified: {}",
        measured(20_000, |_| {
            proof.verify_existence(root, hash(keys / 2), &value).expect("it holds");
        })
    );
    Ok(())
}

fn path(number: u64) -> Vec<u8> {
    format!("/app/data/{}/file-{number}.bin", number / 1000).into_bytes()
}

fn record(number: u64) -> Record {
    let digests = Digests::new().with(Algorithm::Blake3, &leaf_hash(&number.to_be_bytes()).0);
    let attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000_000_000_000 };
    Record { cause: Cause::Scan, state: State::Present(attributes, Content::File { size: number, digests }) }
}

/// By two threads.
fn files(ledger: &Ledger, first: u64, end: u64) -> Vec<File> {
    let part = |range: std::ops::Range<u64>| -> Vec<File> {
        range.map(|number| ledger.file(path(number)).expect("a path")).collect()
    };
    let middle = (first + end) / 2;
    thread::scope(|scope| {
        let other = scope.spawn(|| part(middle..end));
        let mut files = part(first..middle);
        files.extend(other.join().expect("no panic"));
        files
    })
}

fn ledger() -> Result {
    let (keys, folder) = (keys(), folder()?);
    let name = folder.path().join("ledger");
    let ledger = Ledger::open(&name, 0, Options::default())?;
    let (mut placing, mut appending) = (Duration::ZERO, Duration::ZERO);
    for first in (0..keys).step_by(BATCH as usize) {
        let start = Instant::now();
        let files = files(&ledger, first, keys.min(first + BATCH));
        placing += start.elapsed();
        let events = (first..).zip(files).map(|(number, file)| Event::File { file, record: record(number) });
        let events = events.collect();
        let start = Instant::now();
        ledger.append(1, events)?;
        appending += start.elapsed();
    }
    let rate = |time: Duration| keys as f64 / time.as_secs_f64();
    println!(
        "ledger: {keys} files: places by two threads {:.0}/s, appended {:.0}/s",
        rate(placing),
        rate(appending)
    );
    let (now, most) = memory()?;
    println!("ledger: {now} MiB resident (at most {most}), file of {} MiB", fs::metadata(&name)?.len() >> 20);
    proofs(&ledger, keys)?;
    // What is there if the process is killed now.
    let killed = folder.path().join("killed");
    fs::copy(&name, &killed)?;
    drop(ledger);
    for (how, name) in [("again", name), ("after a kill", killed)] {
        let start = Instant::now();
        let ledger = Ledger::open(&name, 2, Options::default())?;
        let seconds = start.elapsed().as_secs_f64();
        println!("ledger: opened {how} in {seconds:.1} s with {} entries", ledger.size());
    }
    Ok(())
}

fn proofs(ledger: &Ledger, keys: u64) -> Result {
    // Some files with a history.
    for number in 0..10 {
        let file = ledger.file(path(42))?;
        ledger.append(2, vec![Event::File { file, record: record(number) }])?;
    }
    let checkpoint = ledger.checkpoint();
    let anchor = Anchor::new(checkpoint, &ledger.vrf_key())?;
    let file = |number: u64| ledger.prove_file(&path(number * 7919 % keys), None).expect("a proof");
    println!("proof of a file: {}, {} bytes", measured(3000, |number| drop(file(number))), file(1).len());
    println!("proof of a file, asked again: {}", measured(3000, |_| drop(file(1))));
    let never = |number: u64| {
        let path = format!("/never/{number}");
        ledger.prove_file(path.as_bytes(), None).expect("a proof")
    };
    println!("proof of absence: {}, {} bytes", measured(3000, |number| drop(never(number))), never(1).len());
    let history = ledger.prove_history(&path(42), None)?;
    let prove = |_| drop(ledger.prove_history(&path(42), None));
    println!("proof of a history of 11, asked again: {}, {} bytes", measured(1000, prove), history.len());
    println!(
        "consistency: {}",
        measured(1000, |number| drop(ledger.prove_consistency(number + 1, checkpoint.size)))
    );
    let proof = file(1);
    let verify =
        |_| assert!(matches!(anchor.verify_file(&path(7919 % keys), &proof), Ok(FileNow::Recorded(_))));
    println!("proof of a file, verified: {}", measured(3000, verify));
    verification(&anchor, &path(7919 % keys), &ledger.vrf_key(), &proof)?;
    println!(
        "history of 11, verified: {}",
        measured(1000, |_| drop(anchor.verify_history(&path(42), &history)))
    );
    println!("checkpoint, signed: {}", measured(3000, |_| drop(ledger.signed_checkpoint())));
    Ok(())
}

/// A proof of a file, verified, beside what that cannot do without: the VRF's proof, verified from its bytes, and the paths in
/// both trees. In turn, so that all of it meets the same machine.
fn verification(anchor: &Anchor, path: &[u8], vrf_key: &[u8; 32], bytes: &[u8]) -> Result {
    let (key, proof) =
        (vrf::PublicKey::from_bytes(vrf::Suite::Edwards25519Sha512Tai, vrf_key)?, Proof::decode(bytes)?);
    let (vrf_bytes, opened) =
        (proof.vrf.context("a proof of a file")?, proof.chain.first().context("an entry")?);
    let Checkpoint { size, log_root, map_root } = *anchor.checkpoint();
    let subject = Entry::decode(&opened.entry)?.subject;
    let value = proof.map.verify(&subject, &map_root)?.context("a value")?;
    let vrf = |_| {
        let proof = vrf::Proof::from_bytes(key.suite(), &vrf_bytes).expect("it is one");
        drop(std::hint::black_box(key.verify(path, &proof).expect("it holds")));
    };
    let trees = |_| {
        let shown = proof.map.verify(&subject, &map_root).expect("it holds");
        assert_eq!(shown, Some(value));
        verify_inclusion(&leaf_hash(&opened.entry), value.last, size, &log_root, &opened.path)
            .expect("it holds");
    };
    let all = |_| drop(anchor.verify_file(path, bytes).expect("it holds"));
    let median = |call: &dyn Fn(u64)| sorted(300, call, processor)[150].as_nanos() as f64 / 1000.0;
    let mut rounds: Vec<_> = (0..11).map(|_| (median(&vrf), median(&trees), median(&all))).collect();
    rounds.sort_by(|a, b| (a.2 / (a.0 + a.1)).total_cmp(&(b.2 / (b.0 + b.1))));
    let (vrf, trees, all) = rounds[rounds.len() / 2];
    println!(
        "proof of a file, verified: {all:.1} µs; of which VRF {vrf:.1} µs and paths in the trees {trees:.1} µs: {:.3} times",
        all / (vrf + trees)
    );
    Ok(())
}

fn append() -> Result {
    const THREADS: u64 = 16;
    let folder = folder()?;
    let ledger = Arc::new(Ledger::open(&folder.path().join("ledger"), 0, Options::default())?);
    let event = |number: u64| -> Result<Event> {
        Ok(Event::File { file: ledger.file(path(number % 1000))?, record: record(number) })
    };
    println!(
        "append of one: {}",
        passed(2000, |number| {
            ledger.append(1, vec![event(number).expect("a path")]).expect("durable");
        })
    );
    let events = (0..100_000).map(event).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    ledger.append(1, events)?;
    println!("append of 100000 at once: {:.0}/s", 100_000.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                for number in 0..500 {
                    let file = ledger.file(path(thread * 1000 + number)).expect("a path");
                    ledger.append(1, vec![Event::File { file, record: record(number) }]).expect("durable");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    println!(
        "append of one by each of {THREADS} threads: {:.0}/s",
        (THREADS * 500) as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}
