//! Measures what a scan of files cannot be faster than: as many bytes hashed from memory that is in the processor's cache, the
//! files read without hashing, and both one after the other, each by as many threads as there are processors.
//!
//! Usage: glasshouse-bench-scan FOLDER        prints NAME, seconds, and seconds of processor time, of the rounds' medians
//! Environment: THREADS (one a processor), ROUNDS (5), BUFFER (65536 bytes are read at a time), OFFSET (64: where the buffer begins
//! behind a page's beginning)
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that prints")]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, hint, thread};

use anyhow::Context;

type Result<T = ()> = anyhow::Result<T>;

const PAGE: usize = 4096;

#[derive(Clone, Copy)]
enum Work {
    /// Nothing is read.
    Hash,
    Read,
    Both,
}

fn main() -> Result {
    let root = env::args_os().nth(1).context("name a folder")?;
    let mut files = Vec::new();
    collect(Path::new(&root), &mut files)?;
    // The largest first, so that no thread is late with one at the end.
    files.sort_unstable_by(|a, b| b.1.cmp(&a.1));
    let (rounds, works) = (
        number("ROUNDS", 5),
        [("hashed from memory", Work::Hash), ("read", Work::Read), ("read and hashed", Work::Both)],
    );
    let mut times = vec![Vec::new(); works.len()];
    for _ in 0..rounds {
        for (times, (_, work)) in times.iter_mut().zip(works) {
            times.push(all(&files, work)?);
        }
    }
    for (times, (name, _)) in times.iter_mut().zip(works) {
        times.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let (passed, processor) = times[times.len() / 2];
        println!("{name}\t{passed:.3}\t{processor:.3}");
    }
    Ok(())
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(())
}

/// Seconds for all files, and those of all threads on processors.
fn all(files: &[(PathBuf, u64)], work: Work) -> Result<(f64, f64)> {
    let threads = number("THREADS", thread::available_parallelism()?.get());
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let processor: f64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| some(files, &next, work))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<Result<_>>()
    })?;
    Ok((start.elapsed().as_secs_f64(), processor))
}

/// What one thread does, and for how long it was on a processor.
fn some(files: &[(PathBuf, u64)], next: &AtomicUsize, work: Work) -> Result<f64> {
    let size = number("BUFFER", 65536);
    let mut memory = vec![7; size + 2 * PAGE];
    let start = memory.as_ptr().align_offset(PAGE) + number("OFFSET", 64) % PAGE;
    let buffer = &mut memory[start..start + size];
    while let Some((path, size)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut hasher = blake3::Hasher::new();
        if matches!(work, Work::Hash) {
            let mut left = usize::try_from(*size)?;
            while left > 0 {
                let part = left.min(buffer.len());
                hasher.update(&buffer[..part]);
                left -= part;
            }
        } else {
            let mut file = File::open(path)?;
            loop {
                let count = file.read(buffer)?;
                if count == 0 {
                    break;
                }
                if matches!(work, Work::Both) {
                    hasher.update(&buffer[..count]);
                }
            }
        }
        hint::black_box(hasher.finalize());
    }
    let times = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = times.split_whitespace().next().context("no time of the thread")?.parse()?;
    Ok(nanoseconds / 1e9)
}
