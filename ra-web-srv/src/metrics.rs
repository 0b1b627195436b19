//! What the server counts of itself, for `GET /metrics` in the text format of Prometheus (version 0.0.4).
//!
//! Counts only: no address, no nonce, nothing of a caller. What is not one of the server's own paths is not counted, so that
//! nobody makes it remember what he asks for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

/// Media type of the text format.
pub(crate) const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    documents: AtomicU64,
    nonces: AtomicU64,
    /// By path and status.
    answers: Mutex<BTreeMap<String, BTreeMap<u16, u64>>>,
}

/// A family of samples: kind, name without prefix, help, and one line for each sample.
struct Family<'a> {
    kind: &'static str,
    name: &'static str,
    help: &'static str,
    samples: &'a [(String, u64)],
}

impl Metrics {
    /// One document was made for `nonces` callers.
    pub(crate) fn document_made(&self, nonces: usize) {
        self.documents.fetch_add(1, Ordering::Relaxed);
        self.nonces.fetch_add(nonces as u64, Ordering::Relaxed);
    }

    fn answered(&self, path: &str, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if !answers.contains_key(path) {
            answers.insert(path.to_owned(), BTreeMap::new());
        }
        if let Some(counts) = answers.get_mut(path) {
            *counts.entry(status).or_default() += 1;
        }
    }

    /// The text; `waiting` callers wait for a document to be begun.
    pub(crate) fn text(&self, waiting: usize) -> String {
        let one = |value: u64| [(String::new(), value)];
        let answers: Vec<_> = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .flat_map(|(path, counts)| counts.iter().map(move |(status, count)| (path, status, *count)))
            .map(|(path, status, count)| (format!("{{path=\"{path}\",status=\"{status}\"}}"), count))
            .collect();
        let counter = |name, help, samples| Family { kind: "counter", name, help, samples };
        let mut text = String::new();
        for family in [
            counter(
                "documents_total",
                "Attestation documents made for verifiers.",
                &one(self.documents.load(Ordering::Relaxed)),
            ),
            counter(
                "nonces_total",
                "Nonces of verifiers that these documents answered.",
                &one(self.nonces.load(Ordering::Relaxed)),
            ),
            Family {
                kind: "gauge",
                name: "waiting",
                help: "Verifiers who wait for a document to be begun.",
                samples: &one(waiting as u64),
            },
            counter("answers_total", "Requests answered, by path and status.", &answers),
        ] {
            family.write(&mut text);
        }
        text
    }
}

impl Family<'_> {
    fn write(&self, text: &mut String) {
        let Self { kind, name, help, samples } = self;
        let infallible = "a String takes every text";
        writeln!(text, "# HELP glasshouse_{name} {help}\n# TYPE glasshouse_{name} {kind}").expect(infallible);
        for (labels, value) in *samples {
            writeln!(text, "glasshouse_{name}{labels} {value}").expect(infallible);
        }
    }
}

/// Counts each answer under the path of its route.
pub(crate) async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    if let Some(path) = path {
        metrics.answered(path.as_str(), response.status().as_u16());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_each_family_with_its_samples() {
        let metrics = Metrics::default();
        metrics.document_made(1);
        metrics.document_made(30);
        metrics.answered("/healthz", 200);
        metrics.answered("/healthz", 200);
        metrics.answered("/v1/attestation", 400);
        let text = metrics.text(5);
        for line in [
            "# TYPE glasshouse_documents_total counter",
            "glasshouse_documents_total 2",
            "glasshouse_nonces_total 31",
            "glasshouse_waiting 5",
            "glasshouse_answers_total{path=\"/healthz\",status=\"200\"} 2",
            "glasshouse_answers_total{path=\"/v1/attestation\",status=\"400\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
