//! Secrets that a service is given at run time: their names, which are measured. Their values never are.

use std::ops::Range;

use toml::Spanned;

use crate::source::{Mistake, mistake};

/// Most secrets of one service.
const MAX_SECRETS: usize = 64;
/// Longest name of a secret, in bytes.
const MAX_SECRET_NAME_BYTES: usize = 63;

/// Whether `name` can be a secret's name: 1 to 63 of `A-Z a-z 0-9 _ . -`, not beginning with `.` or `-`. It is the name of
/// a file.
pub fn is_secret_name(name: &str) -> bool {
    (1..=MAX_SECRET_NAME_BYTES).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The rules of the measured form.
pub(crate) fn check_measured(names: &[String]) -> Result<(), &'static str> {
    if names.len() > MAX_SECRETS {
        return Err("a service has more than 64 secrets");
    }
    if !names.iter().all(|name| is_secret_name(name)) {
        return Err("a secret's name is not 1 to 63 letters, digits, '_', '.' and '-'");
    }
    if !names.is_sorted_by(|a, b| a < b) {
        return Err("a service's secrets are not ascending and unique");
    }
    Ok(())
}

/// `secrets` of a service, as people write it.
pub(crate) fn check(raw: Option<Spanned<Vec<String>>>) -> Result<Vec<String>, Mistake> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.get_ref().len() > MAX_SECRETS {
        return Err(mistake(&raw, format!("`secrets`: at most {MAX_SECRETS} of one service")));
    }
    if let Some(name) = raw.get_ref().iter().find(|name| !is_secret_name(name)) {
        let text = format!(
            "`secrets`: {name:?} is not allowed: 1 to 63 letters, digits, `_`, `.` and `-`, not `.` or `-` at the beginning"
        );
        return Err(mistake(&raw, text));
    }
    let mut names = raw.into_inner();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Who waits for secrets needs somebody who may give them.
pub(crate) fn check_giver(
    names: &[String],
    span: Option<Range<usize>>,
    takes_secrets: bool,
) -> Result<(), Mistake> {
    if names.is_empty() || takes_secrets {
        return Ok(());
    }
    let text = "`secrets`: nobody may give them: add `may = [\"secrets\"]` to a [[control.operator]]";
    Err(Mistake::new(span.unwrap_or_default(), text.to_owned()))
}
