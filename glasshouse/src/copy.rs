//! What `glasshouse cp` copies where: the words of a person who knows `scp`, as transfers of the control channel.
//!
//! One side is an enclave's, `NAME:/path`, the other this machine's. With a `/` at its end, or as one of several, what is
//! copied goes into the target, files and directories alike. Opens nothing and asks nobody.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use anyhow::Result;
use clap::Parser;
use pipeline::transfer::cli::TransferCommand;

use crate::{cli::CpArgs, exit::Usage};

/// Transfers from or to the enclave called `name`, in their order.
pub(crate) struct Copies {
    pub(crate) name: String,
    pub(crate) transfers: Vec<TransferCommand>,
}

/// The words of a transfer, as `pipeline` has them.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(subcommand)]
    transfer: TransferCommand,
}

/// One side of a copy.
#[derive(Clone, Debug)]
enum Side {
    Here(OsString),
    Enclave { name: String, path: OsString },
}

impl Copies {
    pub(crate) fn of(args: &CpArgs) -> Result<Self, Usage> {
        let (from, to) = match &args.paths[..] {
            [from @ .., to] if !from.is_empty() => (from, Side::of(to)?),
            _ => return Err(Usage("say what to copy and where to: FROM... TO".to_owned())),
        };
        let several = from.len() > 1;
        let from = from.iter().map(|text| Side::of(text)).collect::<Result<Vec<_>, _>>()?;
        let copies = from.iter().map(|from| one(from, &to, args, several)).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<_> = copies.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        match <[String; 1]>::try_from(names) {
            Ok([name]) => Ok(Self { name, transfers: copies.into_iter().map(|(_, copy)| copy).collect() }),
            Err(_) => Err(Usage("from one enclave at a time".to_owned())),
        }
    }
}

fn one(from: &Side, to: &Side, args: &CpArgs, several: bool) -> Result<(String, TransferCommand), Usage> {
    let (name, verb, from, to) = match (from, to) {
        (Side::Here(from), Side::Enclave { name, path }) if is_directory(from) => {
            (name, "send-dir", from, into(path, from, several))
        }
        (Side::Here(from), Side::Enclave { name, path }) => {
            if from == "-" && path.as_bytes().ends_with(b"/") {
                return Err(Usage("standard input has no name: say the file's in the enclave".to_owned()));
            }
            (name, "send-file", from, if several { with_slash(path) } else { path.clone() })
        }
        (Side::Enclave { .. }, Side::Here(to)) if several && !is_directory(to) => {
            let shown = Path::new(to).display();
            return Err(Usage(format!(
                "{shown} is no directory, and there is more than one file to go there"
            )));
        }
        (Side::Enclave { name, path }, Side::Here(to)) if args.recursive => {
            (name, "recv-dir", path, into(to, path, several))
        }
        (Side::Enclave { name, path }, Side::Here(to)) => (name, "recv-file", path, to.clone()),
        (Side::Here(_), Side::Here(_)) => {
            let text = "one side has to be an enclave's, NAME:/path";
            return Err(Usage(text.to_owned()));
        }
        (Side::Enclave { .. }, Side::Enclave { .. }) => {
            let text = "one side has to be of this machine: from enclave to enclave takes two copies";
            return Err(Usage(text.to_owned()));
        }
    };
    let quiet = args.quiet.then_some(OsStr::new("--quiet"));
    let words = [OsStr::new(verb)].into_iter().chain(quiet).chain([OsStr::new("--"), from, &to]);
    let parsed = Words::try_parse_from(words).map_err(|error| Usage(error.to_string()))?;
    Ok((name.clone(), parsed.transfer))
}

impl Side {
    /// `NAME:/path` is in an enclave. A path of this machine that looks so is written `./NAME:/path`.
    fn of(text: &OsStr) -> Result<Self, Usage> {
        let here = || Ok(Self::Here(text.to_owned()));
        let bytes = text.as_bytes();
        let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return here() };
        let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
        let Some(name) = str::from_utf8(name).ok().filter(|name| manifest::is_valid_name(name)) else {
            return here();
        };
        if path.first() == Some(&b'/') {
            return Ok(Self::Enclave { name: name.to_owned(), path: OsString::from_vec(path.to_vec()) });
        }
        if Path::new(text).exists() {
            return here();
        }
        let path = String::from_utf8_lossy(path);
        let text = format!(
            "{name}:{path}: paths in an enclave begin with a slash, as in {name}:/{path}; a file of this machine \
             with a colon in its name is ./{name}:{path}"
        );
        Err(Usage(text))
    }
}

/// Where the directory `from` goes: into `to` if that says so, else in its place.
fn into(to: &OsStr, from: &OsStr, several: bool) -> OsString {
    let (target, source) = (to.as_bytes(), from.as_bytes());
    let goes_into = several || target.ends_with(b"/") || matches!(target, b"." | b"..");
    // `directory/.` is what is in it, which has no name of its own.
    let name = if source.ends_with(b"/.") { None } else { Path::new(from).file_name() };
    match name {
        Some(name) if goes_into => {
            let mut path = with_slash(to);
            path.push(name);
            path
        }
        _ => to.to_owned(),
    }
}

fn with_slash(path: &OsStr) -> OsString {
    let mut path = path.to_owned();
    if !path.as_bytes().ends_with(b"/") {
        path.push("/");
    }
    path
}

fn is_directory(path: &OsStr) -> bool {
    Path::new(path).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::OperatorArgs;

    fn copies(words: &[&str], recursive: bool) -> Result<Copies, Usage> {
        let operator = OperatorArgs { identity: None };
        let paths = words.iter().map(OsString::from).collect();
        Copies::of(&CpArgs { paths, recursive, quiet: true, operator })
    }

    /// The verb and its arguments, as they would be typed.
    fn typed(words: &[&str], recursive: bool) -> String {
        let shown: Vec<_> = copies(words, recursive).unwrap().transfers.iter().map(said).collect();
        shown.join("; ")
    }

    fn said(transfer: &TransferCommand) -> String {
        let (verb, from, to) = transfer.words();
        format!("{verb} {} {}", from.display(), to.display())
    }

    #[test]
    fn the_side_with_a_name_is_the_enclave() {
        assert_eq!(copies(&["Cargo.toml", "web:/srv/"], false).unwrap().name, "web");
        assert_eq!(typed(&["Cargo.toml", "web:/srv/x"], false), "send-file Cargo.toml /srv/x");
        assert_eq!(typed(&["web:/srv/a:b", "-"], false), "recv-file /srv/a:b -");
        assert_eq!(typed(&["./web:/x", "web:/srv"], false), "send-file ./web:/x /srv");
        for (from, to) in [
            ("a", "b"),
            ("web:/a", "web:/b"),
            ("web:a", "b"),
            ("web:", "b"),
            ("Web:/a", "b"),
            ("-", "web:/srv/"),
        ] {
            assert!(copies(&[from, to], false).is_err(), "{from} {to}");
        }
        let told = copies(&["Cargo.toml", "web:srv"], false).err().unwrap().to_string();
        assert!(told.contains("web:/srv"), "{told}");
    }

    #[test]
    fn a_directory_goes_in_the_targets_place_or_with_a_slash_into_it() {
        assert_eq!(typed(&["src", "web:/srv"], false), "send-dir src /srv");
        assert_eq!(typed(&["src", "web:/srv/"], false), "send-dir src /srv/src");
        assert_eq!(typed(&["src/", "web:/srv/"], false), "send-dir src/ /srv/src");
        assert_eq!(typed(&["src/.", "web:/srv/"], false), "send-dir src/. /srv/");
        assert_eq!(typed(&["web:/srv/data", "copy"], true), "recv-dir /srv/data copy");
        assert_eq!(typed(&["web:/srv/data", "."], true), "recv-dir /srv/data ./data");
        assert_eq!(typed(&["web:/srv/data/", "copy/"], true), "recv-dir /srv/data/ copy/data");
        assert_eq!(typed(&["web:/", "copy/"], true), "recv-dir / copy/");
    }

    #[test]
    fn several_go_into_one_directory() {
        assert_eq!(
            typed(&["Cargo.toml", "src", "web:/srv"], false),
            "send-file Cargo.toml /srv/; send-dir src /srv/src"
        );
        assert_eq!(typed(&["web:/a", "web:/b", "src"], false), "recv-file /a src; recv-file /b src");
        for words in [&["web:/a", "web:/b", "nowhere"][..], &["web:/a", "other:/b", "."], &["web:/a"], &[]] {
            assert!(copies(words, false).is_err(), "{words:?}");
        }
    }
}
