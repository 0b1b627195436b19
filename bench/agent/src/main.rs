//! Measures the TEE log beside SQLite and redb, which sign, chain and seal nothing, and the reference agent over HTTP.
//!
//! Usage: agent [append] [query] [http]        (all without words; each in a process of its own)
//! Environment: ROWS (1000000), SECONDS (3, of each measurement), FOLDER (where files are written, /dev/shm)
#![allow(clippy::print_stdout, clippy::exit, reason = "a program that prints")]

mod append;
mod http;
mod query;

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tee_log::store::Deed;

type Result<T = ()> = anyhow::Result<T>;

fn main() -> Result {
    let parts: Vec<String> = env::args().skip(1).collect();
    match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["append"] => append::run(),
        ["query"] => query::run(),
        ["http"] => http::run(),
        [] => ["append", "query", "http"].iter().try_for_each(|part| {
            let status = Command::new(env::current_exe()?).arg(part).status()?;
            anyhow::ensure!(status.success(), "{part} failed");
            Ok(())
        }),
        _ => anyhow::bail!("a part is append, query or http"),
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn seconds() -> Duration {
    Duration::from_secs(number("SECONDS", 3))
}

fn folder() -> Result<tempfile::TempDir> {
    let folder = env::var_os("FOLDER").map_or(PathBuf::from("/dev/shm"), PathBuf::from);
    tempfile::tempdir_in(folder).context("a folder for the files")
}

/// Does it again and again; how many of `each` came about in a second.
fn rate(each: u64, mut action: impl FnMut() -> Result) -> Result<f64> {
    let (begun, limit, mut count) = (Instant::now(), seconds(), 0_u64);
    while begun.elapsed() < limit {
        action()?;
        count += each;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// What an agent writes down of an answer: about 300 bytes.
fn deed(number: u64) -> Deed {
    let content = format!(r#"{{"sha256":"{number:064x}","signature":"0x{number:0130x}"}}"#);
    Deed {
        agent_id: "robot_sensory_forest".to_owned(),
        room_id: format!("room-{}", number % 1000),
        user_id: format!("user-{}", number % 997),
        kind: ["Action:PROMPT", "Action:SIGN_TRANSACTION", "Action:CONTINUE"][(number % 3) as usize]
            .to_owned(),
        content,
    }
}

/// A line of the result, with its goal.
fn line(what: &str, found: f64, unit: &str, goal: Option<f64>) {
    match goal {
        Some(goal) => println!("{what:<66} {found:>12.1} {unit} (goal {goal})"),
        None => println!("{what:<66} {found:>12.1} {unit}"),
    }
}
