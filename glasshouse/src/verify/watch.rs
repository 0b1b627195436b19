//! `--watch`: the same question again and again, until the answer is no: when the ledger has grown, and on an interval.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Question, checkpoint::Since, gather, once, show, verdict::Verdict};
use crate::{cli::VerifyArgs, evidence, exit::Exit, output};

/// After so many failures in a row to ask at all, the watch ends: nobody is told for long that all is well.
const MAX_FAILURES: u32 = 3;

/// A ledger that grows all the time is asked about no oftener.
const REST: Duration = Duration::from_secs(1);

/// Asks every `interval` seconds, and when the server says that its ledger has grown. What changed is shown; each ledger has to have grown out of the one before.
pub(super) fn watch(args: &VerifyArgs, mut question: Question, interval: u64) -> Result<Exit> {
    let (mut failures, mut shown, mut asked) = (0, None, 0);
    loop {
        match once(args, &question) {
            Err(error) if failures + 1 >= MAX_FAILURES || shown.is_none() => return Err(error),
            Err(error) => {
                failures += 1;
                output::say(&format!("no answer ({failures} of {MAX_FAILURES}): {error:#}"));
            }
            Ok((verdict, kept)) => {
                failures = 0;
                let essence = essence(&verdict);
                if shown.as_ref() != Some(&essence) {
                    show(args, &verdict)?;
                    shown = Some(essence);
                }
                if !verdict.verified {
                    return Ok(Exit::No);
                }
                question.ledger.since = kept.map(Since::Kept).or(question.ledger.since);
            }
        }
        asked += 1;
        if args.times.is_some_and(|times| asked >= times) {
            return Ok(Exit::Done);
        }
        wait(args, question.ledger.since.as_ref().map(Since::size), Duration::from_secs(interval));
    }
}

/// Until the ledger has grown beyond `size`, and no longer than `interval`. Nobody who says so is believed: it is asked again.
fn wait(args: &VerifyArgs, size: Option<u64>, interval: Duration) {
    let begun = Instant::now();
    sleep(REST.min(interval));
    if let (Some(url), Some(size)) = (&args.url, size)
        && let Ok(server) = gather::server(url, args)
        && evidence::until_grown(&server, size, interval.saturating_sub(begun.elapsed()))
    {
        return;
    }
    sleep(interval.saturating_sub(begun.elapsed()));
}

/// What a change of is worth showing: not nonces and sizes, which always change.
fn essence(verdict: &Verdict) -> Vec<String> {
    let files = verdict.files.iter().chain(&verdict.histories);
    let files = files.map(|file| format!("{} {} {}", file.path, file.index, file.state));
    let sessions = verdict.sessions.iter().map(|session| format!("{} {}", session.number, session.key));
    let all = verdict.refusals.iter().cloned().chain(files).chain(sessions);
    all.chain([verdict.verified.to_string()]).collect()
}
