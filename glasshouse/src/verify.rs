//! `glasshouse verify`: evidence of a running enclave, a bundle or a stored document, appraised on this machine.
//!
//! Nothing the enclave says of itself is believed: the nonce, the trusted root, the reference values and the clock are
//! this side's, and the key of the TLS connection is compared with the one attested.

mod checkpoint;
mod control;
mod digests;
mod gather;
mod hint;
mod judge;
mod ledger;
mod verdict;
mod watch;

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use anyhow::{Context, Result};
use attestation::{
    ControlPolicy,
    bundle::{Bundle, MAX_NAME_BYTES, Name},
};
use expected::{Expected, ExpectedError, MAX_POLICY_BYTES, PolicyFile};

use crate::{
    cli::VerifyArgs,
    exit::{Exit, Usage},
    output,
};
use checkpoint::{Cosigned, Kept, Since};
use digests::Wanted;
use gather::{Material, gather, read_limited};
use judge::judge;
use ledger::Questions;
use verdict::Verdict;

/// What is demanded of the evidence, whatever it turns out to be.
#[derive(Debug)]
struct Question {
    expected: Expected,
    policy: Option<PolicyFile>,
    control: ControlPolicy,
    ledger: Questions,
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit> {
    let question = Question::of(args)?;
    if let Some(interval) = args.watch {
        return watch::watch(args, question, interval);
    }
    let (verdict, _) = once(args, &question)?;
    show(args, &verdict)?;
    Ok(if verdict.verified { Exit::Done } else { Exit::No })
}

/// Gathers and judges, and keeps what is to be kept.
fn once(args: &VerifyArgs, question: &Question) -> Result<(Verdict, Option<Kept>)> {
    let material = gather(args, &question.ledger.asked())?;
    if let Some(path) = &args.save_bundle {
        save(path, &material)?;
    }
    let verdict = judge(&material, question);
    let kept = verdict.ledger.as_ref().filter(|_| verdict.verified).map(Kept::of);
    if let (Some(path), true) = (&args.save_checkpoint, verdict.verified) {
        kept.as_ref().context("--save-checkpoint: the enclave has no ledger")?.write(path)?;
        output::say(&format!("checkpoint written to {}", path.display()));
    }
    Ok((verdict, kept))
}

fn show(args: &VerifyArgs, verdict: &Verdict) -> Result<()> {
    if args.json {
        return output::print(&serde_json::to_string(verdict)?);
    }
    output::print(&output::printable(&verdict.to_string()))
}

impl Question {
    fn of(args: &VerifyArgs) -> Result<Self> {
        let expected = args.expected.read().map_err(|error| match error.is_usage() {
            true => Usage(error.to_string()).into(),
            false => unread(error),
        })?;
        let control = match (args.never_entered, args.sealed) {
            (_, true) => ControlPolicy::Sealed,
            (true, false) => ControlPolicy::NeverEntered,
            (false, false) => ControlPolicy::Unchecked,
        };
        let policy = args.policy.as_deref().map(policy).transpose()?;
        Ok(Self { expected, policy, control, ledger: Questions::of(args)? })
    }
}

impl Questions {
    fn of(args: &VerifyArgs) -> Result<Self> {
        let paths =
            |texts: &[OsString]| texts.iter().map(|text| path_name(text)).collect::<Result<Vec<_>, _>>();
        let files = paths(&args.file)?;
        let wanted = match (&args.expect, &args.local) {
            (Some(text), _) => Some(Wanted::parse(text)?),
            (None, Some(path)) => Some(Wanted::of_file(path)?),
            (None, None) => None,
        };
        if wanted.is_some() && files.len() != 1 {
            return Err(Usage("--expect and --local are about one --file".to_owned()).into());
        }
        Ok(Self {
            files: files.into_iter().map(|path| (path, wanted.clone())).collect(),
            absent: paths(&args.absent)?,
            histories: paths(&args.history)?,
            egress_only: args.egress_only.as_deref().map(rules).transpose()?,
            since: args.since.as_deref().map(|path| since(path, &args.witness)).transpose()?,
        })
    }
}

/// A path as the application sees it: its ledger has one spelling for each.
fn path_name(text: &OsStr) -> Result<Name, Usage> {
    let bytes = text.as_bytes();
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    let mut parts = bytes.split(|byte| *byte == b'/');
    let absolute = parts.next() == Some(b"") && (bytes == b"/" || bytes.len() > 1 && parts.all(plain));
    if !absolute || bytes.len() > MAX_NAME_BYTES {
        let text = text.to_string_lossy();
        return Err(Usage(format!(
            "{text:?} is no path as /app/model.bin: absolute, without `.`, `..` or a `/` at its end"
        )));
    }
    Ok(Name(bytes.to_vec()))
}

/// What was known of the ledger before, and who has to have seen it.
fn since(path: &Path, witnesses: &[String]) -> Result<Since> {
    let key = |text: &String| text.parse().map_err(|error| Usage(format!("--witness {text:?}: {error}")));
    let witnesses: Vec<_> = witnesses.iter().map(key).collect::<Result<_, _>>()?;
    match Since::read(path)? {
        Since::Kept(_) if !witnesses.is_empty() => {
            Err(Usage("--witness: a witness cosigns notes, and --since is no note".to_owned()).into())
        }
        Since::Note(note) => Ok(Since::Note(Cosigned { witnesses, ..note })),
        kept => Ok(kept),
    }
}

/// A list with commas; an empty one allows nobody.
fn rules(text: &str) -> Result<Vec<egress::Rule>, Usage> {
    let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts
        .map(|text| text.parse().map_err(|error| Usage(format!("--egress-only {text:?}: {error}"))))
        .collect()
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn unread(error: ExpectedError) -> anyhow::Error {
    anyhow::Error::new(error)
}

fn policy(path: &Path) -> Result<PolicyFile> {
    let bytes =
        read_limited(path, MAX_POLICY_BYTES).with_context(|| format!("--policy {}", path.display()))?;
    PolicyFile::parse(&bytes).map_err(|error| Usage(format!("--policy {}: {error}", path.display())).into())
}

/// Writes what was gathered, before anything is made of it: evidence that is refused is worth keeping, too.
fn save(path: &Path, material: &Material) -> Result<()> {
    let written = || -> Result<()> {
        let bundle: &Bundle = material.bundle.as_ref().context("a document alone is no bundle")?;
        fs::write(path, bundle.encode()?)?;
        Ok(())
    };
    written().with_context(|| format!("--save-bundle {}", path.display()))?;
    output::say(&format!("bundle written to {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests;
