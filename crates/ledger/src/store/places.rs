//! Proofs of where files are in the map, remembered: making one takes longer than all the rest of a proof.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::{Key, VRF_PROOF_BYTES, file_key};

/// Proofs in a generation. There are two, and a proof that is asked for moves to the younger one.
const GENERATION: usize = 1024;

/// Where a file is, and what shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) proof: [u8; VRF_PROOF_BYTES],
}

/// The places that were proven lately.
#[derive(Default)]
pub(super) struct Places {
    generations: Mutex<[HashMap<Vec<u8>, Place>; 2]>,
}

impl Places {
    /// The place of the file at `path`: the same every time, so it may as well be remembered.
    pub(super) fn prove(&self, secret: &vrf::SecretKey, path: &[u8]) -> Place {
        if let Some(place) = self.remembered(path) {
            return place;
        }
        let proof = secret.prove(path);
        let key = file_key(&proof.output());
        let place =
            Place { key, proof: proof.as_bytes().try_into().expect("a proof on Ed25519 has 80 bytes") };
        self.remember(path.to_vec(), place);
        place
    }

    fn remembered(&self, path: &[u8]) -> Option<Place> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        if let Some(place) = young.get(path) {
            return Some(*place);
        }
        let (path, place) = old.remove_entry(path)?;
        drop(generations);
        self.remember(path, place);
        Some(place)
    }

    fn remember(&self, path: Vec<u8>, place: Place) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        if young.len() >= GENERATION {
            *old = std::mem::take(young);
        }
        young.insert(path, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_proven_and_not_too_much() {
        let secret = vrf::SecretKey::from_bytes(vrf::Suite::Edwards25519Sha512Tai, &[5; 32]).unwrap();
        let places = Places::default();
        let first = places.prove(&secret, b"/a");
        assert_eq!(places.remembered(b"/a"), Some(first));
        assert_eq!(first.proof[..], *secret.prove(b"/a").as_bytes());
        assert_eq!(first.key, file_key(&secret.output(b"/a")));
        let fill = |from: usize| {
            (from..from + GENERATION)
                .for_each(|number| places.remember(number.to_be_bytes().to_vec(), first));
        };
        fill(0);
        assert_eq!(places.remembered(b"/a"), Some(first), "asked for, so it is young again");
        fill(GENERATION);
        fill(2 * GENERATION);
        assert_eq!(places.remembered(b"/a"), None);
        let kept: usize = places.generations.lock().unwrap().iter().map(HashMap::len).sum();
        assert!(kept <= 2 * GENERATION);
    }
}
