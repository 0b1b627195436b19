//! Records for tests.

use ledger::{Algorithm, Attributes, Cause, Content, Digests, Record, State};

/// A record of a file that holds `content`.
pub(crate) fn file(content: &[u8]) -> Record {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(content);
    let digests = Digests::new().with(Algorithm::Sha256, &digest);
    let attributes = Attributes { mode: 0o644, uid: 1000, gid: 1000, mtime: -7 };
    let content = Content::File { size: content.len() as u64, digests };
    Record { cause: Cause::Event, state: State::Present(attributes, content) }
}

/// A record that says that there is nothing any more.
#[allow(dead_code, reason = "not every test removes")]
pub(crate) fn removed() -> Record {
    Record { cause: Cause::Sweep, state: State::Removed }
}
