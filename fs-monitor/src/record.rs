//! From what the monitor finds to what the ledger records.

use ledger::{Algorithm, Attributes, Device};

use crate::state::{Content, Digests, Kind, State};

/// The state of a file as it is recorded.
pub fn to_ledger(state: &State) -> ledger::State {
    let &State { mode, uid, gid, mtime, .. } = state;
    ledger::State::Present(Attributes { mode, uid, gid, mtime }, content(state))
}

fn content(state: &State) -> ledger::Content {
    let digests = || state.digests().map(digests).unwrap_or_default();
    let (major, minor) = state.device.unwrap_or_default();
    match (state.kind, &state.content) {
        (Kind::File, Content::Digests(_)) => ledger::Content::File { size: state.size, digests: digests() },
        // A target longer than a record takes cannot be: the kernel's limit is the same.
        (Kind::Symlink, Content::Target(target)) if !target.is_empty() => ledger::Content::Symlink {
            target: target.iter().copied().take(ledger::MAX_TARGET_BYTES).collect(),
        },
        (Kind::File | Kind::Symlink, _) => ledger::Content::Unreadable { size: state.size },
        (Kind::Directory, _) => ledger::Content::Directory { entries: state.size, digests: digests() },
        (Kind::CharDevice, _) => ledger::Content::CharacterDevice(Device { major, minor }),
        (Kind::BlockDevice, _) => ledger::Content::BlockDevice(Device { major, minor }),
        (Kind::Fifo, _) => ledger::Content::Fifo,
        (Kind::Socket, _) => ledger::Content::Socket,
    }
}

fn digests(digests: &Digests) -> ledger::Digests {
    let mut all = ledger::Digests::new().with(Algorithm::Blake3, &digests.blake3);
    if let Some(sha256) = &digests.sha256 {
        all = all.with(Algorithm::Sha256, sha256);
    }
    if let Some(sha3_512) = &digests.sha3_512 {
        all = all.with(Algorithm::Sha3_512, &**sha3_512);
    }
    all
}

/// Whether a file looks another way in its directory's listing after this.
pub(crate) fn changes_listing(before: Option<&ledger::State>, after: &ledger::State) -> bool {
    let listed = |state: &ledger::State| match state {
        ledger::State::Removed => None,
        ledger::State::Present(attributes, content) => {
            let &Attributes { mode, uid, gid, .. } = attributes;
            Some((mode, uid, gid, std::mem::discriminant(content), size(content)))
        }
    };
    before.and_then(listed) != listed(after)
}

fn size(content: &ledger::Content) -> u64 {
    match content {
        ledger::Content::File { size, .. } | ledger::Content::Unreadable { size } => *size,
        ledger::Content::Symlink { target } => target.len() as u64,
        // A directory's size is not in the listing above it.
        _ => 0,
    }
}

/// Whether a recorded state is that of a directory.
pub(crate) fn is_directory(state: &ledger::State) -> bool {
    matches!(state, ledger::State::Present(_, ledger::Content::Directory { .. }))
}
