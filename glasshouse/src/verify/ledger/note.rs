//! Notes of the ledger's own (C2SP `tlog-checkpoint`), and what witnesses say of them (C2SP `tlog-cosignature`).

use ::ledger::{Baseline, Checkpoint, CheckpointError};
use attestation::{Sha256, UnixTime};

use super::{Judge, SINCE_CHECK, note_key};
use crate::verify::{
    chain,
    checkpoint::{Cosigned, Kept},
};

impl Judge<'_> {
    /// A note counts when the key that was measured at boot signed it, and who had to see it did.
    pub(super) fn since_note(&mut self, cosigned: &Cosigned) {
        const EXPECTED: &str = "a note that this ledger signed";
        let baseline = self.known.baseline.and_then(|bytes| Baseline::decode(bytes).ok());
        let baseline = baseline.filter(|baseline| baseline.vrf_key == self.stated.vrf_key);
        let Some(key) = baseline.as_ref().and_then(note_key) else {
            let found = "no baseline whose digest is in PCR16, which has the key of its notes";
            return self.verdict.fail(SINCE_CHECK, EXPECTED, found);
        };
        let checkpoint = match Checkpoint::open(cosigned.note.encode().as_bytes(), &key) {
            Ok(checkpoint) => checkpoint,
            Err(CheckpointError::Note(::ledger::NoteError::NotSigned)) => {
                let found = "one of another: the enclave was started again, or is another one";
                return self.verdict.fail(SINCE_CHECK, EXPECTED, found);
            }
            Err(error) => return self.verdict.fail(SINCE_CHECK, EXPECTED, chain(&error)),
        };
        let kept = Kept {
            version: 1,
            vrf_key: Sha256(self.stated.vrf_key),
            size: checkpoint.size,
            log_root: Sha256(checkpoint.log_root.0),
            map_root: Sha256(checkpoint.map_root.0),
        };
        self.since(&kept, "the note");
        for witness in &cosigned.witnesses {
            let check = format!("witness {}", witness.name());
            match cosigned.note.verify_witness(witness) {
                Err(error) => self.verdict.fail(check, "its cosignature below the note", error.to_string()),
                Ok(seconds) => {
                    let at = UnixTime::from_secs(seconds);
                    self.verdict.pass(check, format!("cosigned at {at}, by its own clock"));
                    let (name, size) = (witness.name(), checkpoint.size);
                    self.verdict.proven(format!("{name} cosigned the ledger as it was with {size} entries"));
                }
            }
        }
    }
}
