//! Records of files in words.

use std::collections::BTreeMap;

use ::ledger::{Cause, Content, Observation, Record, State};
use attestation::bundle::Name;
use serde::Serialize;

/// One record of a file.
#[derive(Debug, Serialize)]
pub(crate) struct FileClaim {
    pub(crate) path: String,
    /// Where in the log.
    pub(crate) index: u64,
    /// How many records of the file there were before.
    pub(crate) sequence: u64,
    /// Nanoseconds since 1970 by the enclave's clock, which the host sets.
    pub(crate) time: u64,
    /// Why somebody looked.
    pub(crate) cause: &'static str,
    /// What was there, in words.
    pub(crate) state: String,
    /// Its digests in hex, by algorithm.
    pub(crate) digests: BTreeMap<&'static str, String>,
}

/// A record as it is shown.
pub(super) fn claim(path: &Name, seen: &Observation) -> FileClaim {
    let Observation { index, sequence, time, record } = seen;
    let digests = match &record.state {
        State::Present(_, Content::File { digests, .. } | Content::Directory { digests, .. }) => {
            digests.iter().map(|(algorithm, bytes)| (algorithm.name(), hex::encode(bytes))).collect()
        }
        _ => BTreeMap::new(),
    };
    FileClaim {
        path: path.to_string(),
        index: *index,
        sequence: *sequence,
        time: *time,
        cause: cause(record.cause),
        state: state(record),
        digests,
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Scan => "scan",
        Cause::Event => "event",
        Cause::Access => "access",
        Cause::Sweep => "sweep",
        Cause::Overflow => "overflow",
        Cause::Restart => "restart",
    }
}

/// What was there, in words.
fn state(record: &Record) -> String {
    let State::Present(attributes, content) = &record.state else { return "removed".to_owned() };
    let what = match content {
        Content::File { size, digests } => {
            let digests = digests
                .iter()
                .map(|(algorithm, bytes)| format!(" {}:{}", algorithm.name(), hex::encode(bytes)));
            format!("a file of {size} bytes{}", digests.collect::<String>())
        }
        Content::Directory { entries, .. } => format!("a directory of {entries} names"),
        Content::Symlink { target } => format!("a symbolic link to {}", Name(target.clone())),
        Content::CharacterDevice(device) => format!("a character device {}:{}", device.major, device.minor),
        Content::BlockDevice(device) => format!("a block device {}:{}", device.major, device.minor),
        Content::Fifo => "a named pipe".to_owned(),
        Content::Socket => "a socket".to_owned(),
        Content::Unreadable { size } => format!("a file of {size} bytes that could not be read"),
    };
    format!("{what}, mode {:04o}, owner {}:{}", attributes.mode, attributes.uid, attributes.gid)
}
