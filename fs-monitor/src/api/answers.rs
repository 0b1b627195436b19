//! Answers in JSON and in Prometheus' text format.

use std::{fmt::Write, sync::atomic::Ordering};

use ledger::{Content, Entry, Gap, Kind, Observation, State, store::Ledger};
use serde_json::{Map, Value, json};

use crate::{
    monitor::{Handle, now},
    tree::text,
};

pub(crate) fn checkpoint(ledger: &Ledger) -> Value {
    let (checkpoint, note) = ledger.signed_checkpoint();
    json!({
        "ledger_key": hex::encode(ledger.ledger_key()),
        "log_root": checkpoint.log_root.to_string(),
        "map_root": checkpoint.map_root.to_string(),
        "note": note,
        "origin": ledger.origin(),
        "size": checkpoint.size,
        "time": now(),
        "vrf_key": hex::encode(ledger.vrf_key()),
    })
}

/// An entry as the log has it, without names.
pub(crate) fn entry(index: u64, entry: &Entry) -> Value {
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Stream => "stream",
        Kind::Gap => "gap",
    };
    let mut value = json!({
        "commitment": entry.commitment.to_string(),
        "index": index,
        "kind": kind,
        "sequence": entry.sequence,
        "subject": hex::encode(entry.subject.0),
        "time": entry.time,
    });
    if let Some(previous) = entry.previous {
        value["previous"] = previous.into();
    }
    value
}

/// A time when nobody looked.
pub(crate) fn gap(gap: &Gap) -> Value {
    json!({"detail": gap.detail, "reason": gap.reason.name(), "since": gap.since})
}

/// What was recorded of a file.
pub(crate) fn record(path: &[u8], observation: &Observation) -> Value {
    let mut members = members(&observation.record.state);
    members.insert("cause".to_owned(), observation.record.cause.name().into());
    members.insert("index".to_owned(), observation.index.into());
    members.insert("path".to_owned(), text(path).into());
    members.insert("sequence".to_owned(), observation.sequence.into());
    members.insert("time".to_owned(), observation.time.into());
    Value::Object(members)
}

/// The members of a state; those that a file does not have are left out.
pub(crate) fn members(state: &State) -> Map<String, Value> {
    let mut members = Map::new();
    let mut add = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    let State::Present(attributes, content) = state else {
        add("what", "removed".into());
        return members;
    };
    add("what", "present".into());
    add("kind", content.type_name().into());
    add("mode", attributes.mode.into());
    add("uid", attributes.uid.into());
    add("gid", attributes.gid.into());
    match content {
        Content::File { .. } | Content::Symlink { .. } | Content::Unreadable { .. } => {
            add("mtime", attributes.mtime.into())
        }
        _ => {}
    }
    match content {
        Content::File { size, digests } | Content::Directory { entries: size, digests } => {
            add("size", (*size).into());
            for (algorithm, digest) in digests.iter() {
                add(algorithm.name(), hex::encode(digest).into());
            }
        }
        Content::Symlink { target } => add("target", text(target).into()),
        Content::CharacterDevice(device) | Content::BlockDevice(device) => {
            add("device", json!([device.major, device.minor]));
        }
        Content::Unreadable { size } => add("size", (*size).into()),
        Content::Fifo | Content::Socket => {}
    }
    members
}

/// What the monitor counts, by name, with what it means.
fn counters(monitor: &Handle) -> [(&'static str, &'static str, u64); 10] {
    let counters = monitor.counters();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    [
        ("changes", "Notifications read.", read(&counters.changes)),
        ("files", "Files that are there, as recorded.", read(&counters.files)),
        ("gaps", "Times when changes could have been missed.", read(&counters.gaps)),
        ("groups", "Groups of entries written by the monitor.", read(&counters.groups)),
        ("looks", "Paths looked at.", read(&counters.looks)),
        ("overflows", "Times when the kernel lost notifications.", read(&counters.overflows)),
        ("pending", "Paths that are not as recorded, as far as is known.", monitor.pending() as u64),
        ("rescans", "Looks at everything after a gap.", read(&counters.rescans)),
        ("sweeps", "Looks at everything because it was time.", read(&counters.sweeps)),
        ("watches", "Directories watched.", monitor.watches() as u64),
    ]
}

pub(super) fn add_counters(status: &mut Value, monitor: &Handle) {
    for (name, _, value) in counters(monitor) {
        status[name] = value.into();
    }
}

pub(super) fn metrics(ledger: &Ledger, monitor: Option<&Handle>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, help: &str, value: u64| {
        let kind = if matches!(name, "files" | "pending" | "watches") { "gauge" } else { "counter" };
        let suffix = if kind == "counter" { "_total" } else { "" };
        let name = format!("fs_monitor_{name}{suffix}");
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
            .expect("a string takes everything");
    };
    line("entries", "Entries of the log.", ledger.size());
    line("subjects", "Files and streams in the map.", ledger.subjects());
    for (name, help, value) in monitor.map(counters).into_iter().flatten() {
        line(name, help, value);
    }
    text
}
