//! Answers that never change, kept for whoever asks the same.
//!
//! Two generations: when the younger is full it becomes the older, and what was the older is forgotten. What is asked for
//! again moves to the younger one. So memory is bounded, and what many ask for stays.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::LedgerAnswer;

/// Most bytes of one generation, keys and bodies together.
const GENERATION_BYTES: usize = 8 << 20;

/// What one entry costs beside its key and its body.
const ENTRY_BYTES: usize = 256;

/// The answers, by target.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, LedgerAnswer>,
    young_bytes: usize,
    old: HashMap<String, LedgerAnswer>,
}

impl Cache {
    /// The answer for `target`, if it is kept.
    pub(super) fn get(&self, target: &str) -> Option<LedgerAnswer> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = kept.young.get(target) {
            return Some(answer.clone());
        }
        let (target, answer) = kept.old.remove_entry(target)?;
        kept.put(target, answer.clone());
        Some(answer)
    }

    /// Keeps `answer`, unless it is so long that it would displace a good part of the others.
    pub(super) fn put(&self, target: &str, answer: &LedgerAnswer) {
        if answer.body.len() <= GENERATION_BYTES / 16 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).put(target.to_owned(), answer.clone());
        }
    }
}

impl Generations {
    fn put(&mut self, target: String, answer: LedgerAnswer) {
        let bytes = target.len() + answer.body.len() + ENTRY_BYTES;
        if self.young_bytes + bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(target, answer).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::http::HeaderValue;

    use super::*;

    fn answer(bytes: usize) -> LedgerAnswer {
        let content_type = HeaderValue::from_static("application/cbor");
        LedgerAnswer { content_type, body: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let cache = Cache::default();
        cache.put("/wanted", &answer(10));
        cache.put("/unwanted", &answer(10));
        let large = GENERATION_BYTES / 16;
        for number in 0..100 {
            assert!(cache.get("/wanted").is_some(), "after {number}");
            cache.put(&format!("/{number}"), &answer(large));
        }
        assert!(cache.get("/unwanted").is_none());
        let kept = cache.0.lock().unwrap();
        let bytes: usize = kept.young.values().chain(kept.old.values()).map(|answer| answer.body.len()).sum();
        assert!(bytes <= 2 * GENERATION_BYTES, "{bytes}");
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let cache = Cache::default();
        cache.put("/long", &answer(GENERATION_BYTES / 16 + 1));
        assert!(cache.get("/long").is_none());
    }
}
