//! What a verifier does with entries that it was shown (`docs/spec/tee-log.md#verification`).

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::VecDeque;

use aws_lc_rs::digest::{self, SHA256};

use crate::{Anchor, CLOSED, OPENED, Position, PublicKey, SignedEntry};

/// Begins the application data of a document about a key.
const KEY_TAG: &[u8] = b"tee-log key v1";
/// Begins the application data of a document about an answer, and what an answer's signature is over.
const REPLY_TAG: &[u8] = b"tee-log reply v1";

/// Follows the chain, entry by entry.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    position: Position,
    lives: Vec<Life>,
    /// Those that are not reached yet.
    anchors: VecDeque<Anchor>,
}

/// One start of the program that keeps the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its key. That it is an enclave's, and which enclave's, only its attestation says.
    pub key: PublicKey,
    /// Where it took the log over. Its attestation says the same.
    pub opened: Position,
    /// Whether it ended as it should. A life that did not may have been followed by entries that are lost.
    pub closed: bool,
}

/// Where the chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// Entries are missing, or not in their order.
    #[error("entry {found} is there where {expected} should be")]
    Sequence {
        /// The number that comes next.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// The entry before it is another one.
    #[error("entry {sequence} does not follow the one before it")]
    Previous {
        /// Its number.
        sequence: u64,
    },
    /// It was altered, or signed by somebody else.
    #[error("entry {sequence} is not signed by the key that it names")]
    Signature {
        /// Its number.
        sequence: u64,
    },
    /// A key signs that did not open a life of the log, or one whose life is over.
    #[error("entry {sequence} is signed by a key that did not open the log")]
    Key {
        /// Its number.
        sequence: u64,
    },
    /// The ledger remembers another entry than is shown: there were two logs.
    #[error("entry {sequence} is not the one that the ledger remembers")]
    Forked {
        /// Its number.
        sequence: u64,
    },
    /// The ledger remembers entries that are not shown: the log was put back.
    #[error("the log ends with {found} entries, and the ledger remembers {expected}")]
    RolledBack {
        /// How many there are.
        found: u64,
        /// How many there were.
        expected: u64,
    },
    /// The chain ends elsewhere than somebody remembers.
    #[error("the log ends before entry {expected}, or with other entries")]
    End {
        /// The number that should come next.
        expected: u64,
    },
}

impl Verifier {
    /// A verifier who knows what was written into the ledger, in its order ([`crate::anchors`]).
    pub fn with_anchors(anchors: Vec<Anchor>) -> Self {
        Self { anchors: anchors.into(), ..Self::default() }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Broken`] as its variants say; nothing was taken then.
    pub fn push(&mut self, signed: &SignedEntry) -> Result<(), Broken> {
        let entry = &signed.entry;
        let sequence = entry.after.sequence;
        if sequence != self.position.sequence {
            return Err(Broken::Sequence { expected: self.position.sequence, found: sequence });
        }
        if entry.after.head != self.position.head {
            return Err(Broken::Previous { sequence });
        }
        if !signed.is_signed() {
            return Err(Broken::Signature { sequence });
        }
        let opening = entry.kind == OPENED;
        let may_sign = match opening {
            true => self.lives.iter().all(|life| life.key != entry.key),
            false => self.lives.last().is_some_and(|life| life.key == entry.key && !life.closed),
        };
        if !may_sign {
            return Err(Broken::Key { sequence });
        }
        let position = signed.position();
        let anchor = self.anchors.front().filter(|anchor| anchor.position.sequence <= position.sequence);
        if let Some(anchor) = anchor {
            if *anchor != (Anchor { position, key: entry.key }) {
                return Err(Broken::Forked { sequence });
            }
            self.anchors.pop_front();
        }
        if opening {
            self.lives.push(Life { key: entry.key, opened: entry.after, closed: false });
        } else if let Some(life) = self.lives.last_mut() {
            life.closed = entry.kind == CLOSED;
        }
        self.position = position;
        Ok(())
    }

    /// Whether everything that the ledger remembers was shown.
    ///
    /// # Errors
    /// [`Broken::RolledBack`].
    pub fn shows_all_anchored(&self) -> Result<(), Broken> {
        match self.anchors.back() {
            None => Ok(()),
            Some(last) => {
                Err(Broken::RolledBack { found: self.position.sequence, expected: last.position.sequence })
            }
        }
    }

    /// Whether what was shown ends where somebody remembers, or has seen attested, that it does.
    ///
    /// # Errors
    /// [`Broken::End`].
    pub fn ends_at(&self, position: &Position) -> Result<(), Broken> {
        if self.position == *position { Ok(()) } else { Err(Broken::End { expected: position.sequence }) }
    }

    /// The place after what was taken.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The lives of the log, oldest first. Each key has to be attested for the place where its life was opened.
    pub fn lives(&self) -> &[Life] {
        &self.lives
    }
}

/// The application data of a document about a key that takes the log over at `position`.
pub fn key_statement(position: &Position) -> Vec<u8> {
    [KEY_TAG, &position.sequence.to_be_bytes(), &position.head].concat()
}

/// The application data of a document about an answer: what was attested is its JSON, byte by byte.
pub fn reply_statement(json: &str) -> Vec<u8> {
    let digest = digest::digest(&SHA256, json.as_bytes());
    [REPLY_TAG, digest.as_ref()].concat()
}

/// What the key of the log signs of an answer.
pub fn reply_digest(json: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&SHA256, &reply_statement(json)).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Row, SigningKey};

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn next(after: Position, signer: &SigningKey, kind: &str) -> SignedEntry {
        let entry = Entry {
            after,
            key: signer.public_key(),
            id: [0; 16],
            agent_id: "a".to_owned(),
            room_id: "r".to_owned(),
            user_id: "u".to_owned(),
            kind: kind.to_owned(),
            content: after.sequence.to_string(),
            timestamp: 1,
        };
        entry.sign(signer)
    }

    fn chain(kinds: &[(u8, &str)]) -> Vec<SignedEntry> {
        let mut position = Position::default();
        kinds
            .iter()
            .map(|(byte, kind)| {
                let signed = next(position, &key(*byte), kind);
                position = signed.position();
                signed
            })
            .collect()
    }

    fn verify(entries: &[SignedEntry]) -> Result<Verifier, Broken> {
        let mut verifier = Verifier::default();
        entries.iter().try_for_each(|entry| verifier.push(entry))?;
        Ok(verifier)
    }

    #[test]
    fn a_chain_of_two_lives_is_whole() {
        let entries = chain(&[(1, OPENED), (1, "x"), (1, CLOSED), (2, OPENED), (2, "y")]);
        let verifier = verify(&entries).unwrap();
        let lives = [
            Life { key: key(1).public_key(), opened: Position::default(), closed: true },
            Life { key: key(2).public_key(), opened: entries[2].position(), closed: false },
        ];
        assert_eq!(verifier.lives(), lives);
        assert_eq!(verifier.ends_at(&entries[4].position()), Ok(()));
        assert_eq!(
            verify(&entries[..4]).unwrap().ends_at(&entries[4].position()),
            Err(Broken::End { expected: 5 })
        );
    }

    #[test]
    fn what_was_dropped_reordered_altered_or_forged_is_found() {
        let entries = chain(&[(1, OPENED), (1, "x"), (1, "y"), (1, "z")]);
        let without = |index: usize| [&entries[..index], &entries[index + 1..]].concat();
        for index in 0..3 {
            let expected = Broken::Sequence { expected: index as u64, found: index as u64 + 1 };
            assert_eq!(verify(&without(index)).unwrap_err(), expected);
        }
        let mut swapped = entries.clone();
        swapped.swap(1, 2);
        assert_eq!(verify(&swapped).unwrap_err(), Broken::Sequence { expected: 1, found: 2 });
        let mut altered = entries.clone();
        altered[2].entry.content.push('!');
        assert_eq!(verify(&altered).unwrap_err(), Broken::Signature { sequence: 2 });
        // Renumbered, and signed again by somebody else.
        let mut renumbered = without(1);
        renumbered[1] = next(entries[0].position(), &key(9), "y");
        assert_eq!(verify(&renumbered).unwrap_err(), Broken::Key { sequence: 1 });
        // The key itself, with another past.
        let mut other = entries.clone();
        other[1] = next(entries[0].position(), &key(1), "other");
        assert_eq!(verify(&other).unwrap_err(), Broken::Previous { sequence: 2 });
    }

    #[test]
    fn a_life_is_opened_once_and_over_when_it_is_closed() {
        let broken = |kinds: &[(u8, &str)], sequence| {
            assert_eq!(verify(&chain(kinds)).unwrap_err(), Broken::Key { sequence });
        };
        broken(&[(1, "x")], 0);
        broken(&[(1, OPENED), (1, CLOSED), (1, "x")], 2);
        broken(&[(1, OPENED), (1, OPENED)], 1);
        broken(&[(1, OPENED), (2, OPENED), (1, OPENED)], 2);
        broken(&[(1, OPENED), (2, OPENED), (1, "x")], 2);
    }

    #[test]
    fn what_the_ledger_remembers_cannot_be_taken_back_even_with_the_key() {
        let entries = chain(&[(1, OPENED), (1, "x"), (1, "y"), (1, CLOSED), (2, OPENED), (2, "z")]);
        let anchor =
            |index: usize| Anchor { position: entries[index].position(), key: entries[index].entry.key };
        let known = vec![anchor(0), anchor(2), anchor(5)];
        let verify = |entries: &[SignedEntry]| {
            let mut verifier = Verifier::with_anchors(known.clone());
            entries.iter().try_for_each(|entry| verifier.push(entry))?;
            verifier.shows_all_anchored().map(|()| verifier)
        };
        assert_eq!(verify(&entries).unwrap().lives().len(), 2);
        // Put back, and going on from there.
        assert_eq!(verify(&entries[..5]).unwrap_err(), Broken::RolledBack { found: 5, expected: 6 });
        let mut other = entries[..2].to_vec();
        other.push(next(entries[1].position(), &key(1), "other"));
        assert_eq!(verify(&other).unwrap_err(), Broken::Forked { sequence: 2 });
        // Begun again, as if nothing had been.
        assert_eq!(verify(&chain(&[(2, OPENED), (2, "z")])).unwrap_err(), Broken::Forked { sequence: 0 });
        assert_eq!(verify(&[]).unwrap_err(), Broken::RolledBack { found: 0, expected: 6 });
        // The same end in the name of another.
        let mut verifier = Verifier::with_anchors(vec![Anchor { key: key(9).public_key(), ..anchor(0) }]);
        assert_eq!(verifier.push(&entries[0]), Err(Broken::Forked { sequence: 0 }));
        assert_eq!(verifier.position(), Position::default());
    }

    #[test]
    fn rows_are_read_in_the_form_in_which_they_are_written() {
        let signed = next(Position::default(), &key(1), OPENED);
        let row = Row::from(&signed);
        assert_eq!(SignedEntry::try_from(&row).unwrap(), signed);
        let json = serde_json::to_string(&row).unwrap();
        assert!(json.starts_with(r#"{"id":"00000000-0000-0000-0000-000000000000","agentId":"a","roomId":"r","userId":"u","type":"tee-log:opened","content":"0","timestamp":1,"signature":"0x30"#), "{json}");
        assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
        for (from, to) in [("0x", ""), ("0000-0000", "00000000"), ("agentId", "AgentId")] {
            let other = json.replacen(from, to, 1);
            let read =
                serde_json::from_str::<Row>(&other).ok().and_then(|row| SignedEntry::try_from(&row).ok());
            assert_eq!(read, None, "{other}");
        }
        let upper = Row { public_key: row.public_key.to_uppercase(), ..row };
        assert!(SignedEntry::try_from(&upper).is_err());
    }

    #[test]
    fn statements_are_told_apart() {
        let position = Position { sequence: 0x0102, head: [3; 32] };
        let statement = key_statement(&position);
        assert_eq!(statement, [b"tee-log key v1", &[0, 0, 0, 0, 0, 0, 1, 2][..], &[3; 32]].concat());
        assert!(reply_statement("{}").starts_with(b"tee-log reply v1"));
        assert_ne!(reply_digest("{}"), reply_digest("{} "));
    }
}
