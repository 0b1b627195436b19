//! What the world may ask, over HTTPS: `docs/spec/attestation-api.md`.

mod attestation;
mod auditor;
mod bundle;
mod control;
mod ledger;
mod module;
mod service;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use crate::attester::Attester;
use crate::binding::Binding;
use crate::budget::Budget;
use crate::compat::{self, MAX_COMPAT_BODY_BYTES};
use crate::error::ApiError;
use crate::ledger::Ledger;
use crate::metrics::{self, Metrics};
use crate::nsm_queue::NsmQueue;

pub(crate) use attestation::decode_nonce;

/// What the public paths answer from.
pub(crate) struct PublicState {
    pub(crate) attester: Attester,
    pub(crate) nsm: Arc<NsmQueue>,
    pub(crate) binding: Binding,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Budget,
    /// DER SubjectPublicKeyInfo of the TLS key.
    pub(crate) tls_key: Bytes,
    /// The measured manifest, byte for byte.
    pub(crate) manifest: Option<Bytes>,
    /// The control channel's trace; `None` in an image that has no control channel.
    pub(crate) control: Option<Trace>,
    /// `None` in an image that keeps no ledger.
    pub(crate) ledger: Option<Arc<Ledger>>,
}

pub(crate) use control::{Trace, TranscriptError};
pub(crate) use ledger::{file_target, is_application_stream, range};
pub(crate) use module::{MAX_RANDOM_BYTES, NSM_CALL_COST, RANDOM_BYTES_PER_CALL};
pub(crate) use service::uncached;

pub(crate) type Shared = axum::extract::State<Arc<PublicState>>;

impl PublicState {
    /// The ledger, in an image that keeps one.
    pub(crate) fn ledger(&self) -> Result<&Ledger, ApiError> {
        self.ledger.as_deref().ok_or(ApiError::NoLedger)
    }
}

/// The public paths and what answers there. `openapi.json` has the same.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<PublicState>>)> {
    vec![
        ("/", get(service::greeting)),
        ("/healthz", get(service::health)),
        ("/readyz", get(service::readiness)),
        ("/metrics", get(service::metrics)),
        ("/openapi.json", get(service::openapi)),
        ("/v1/attestation", get(attestation::attestation)),
        ("/v1/manifest", get(service::manifest)),
        ("/v1/nsm", get(module::description)),
        ("/v1/pcrs", get(module::pcrs)),
        ("/v1/random", get(module::random)),
        ("/v1/bundle", get(bundle::bundle)),
        ("/v1/control/transcript", get(control::transcript)),
        ("/v1/ledger/checkpoint", get(ledger::checkpoint)),
        ("/v1/ledger/checkpoint.note", get(ledger::checkpoint_note)),
        ("/v1/ledger/baseline", get(ledger::baseline)),
        ("/v1/ledger/tile/{*tile}", get(ledger::tile)),
        ("/v1/ledger/tlog/checkpoint", get(ledger::checkpoint_note)),
        ("/v1/ledger/tlog/tile/{*tile}", get(ledger::tile)),
        ("/v1/ledger/consistency", get(ledger::consistency)),
        ("/v1/ledger/entries", get(ledger::entries)),
        ("/v1/ledger/events", get(ledger::events)),
        ("/v1/ledger/file/record", get(ledger::file_record)),
        ("/v1/ledger/file/proof", get(ledger::file_proof)),
        ("/v1/ledger/file/history", get(ledger::file_history)),
        ("/v1/ledger/stream/{*stream}", get(ledger::stream)),
    ]
}

/// The public paths.
pub(crate) fn router(state: PublicState) -> Router {
    let metrics = Arc::clone(&state.metrics);
    let with = |router: Router<_>, (path, method)| router.route(path, method);
    let compat = compat::routes().into_iter().fold(Router::new(), with);
    let compat = compat.layer(DefaultBodyLimit::max(MAX_COMPAT_BODY_BYTES));
    let router = routes().into_iter().fold(compat, with);
    router
        .with_state(Arc::new(state))
        .layer(from_fn(one_host))
        .layer(from_fn_with_state(metrics, metrics::count))
}

/// Nothing here depends on the name, but who passes requests on might: HTTP/1.1 has exactly one (RFC 9112, section 3.2).
async fn one_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if request.version() == Version::HTTP_11 && hosts != 1 {
        return ApiError::Host.into_response();
    }
    next.run(request).await
}

/// Whether an Accept field names `wanted` (RFC 9110, section 12.5.1); wildcards mean whatever is the default.
fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(wanted)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn json_is_given_only_to_whoever_names_it() {
        let accepts = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]);
            super::accepts(&headers, "application/json")
        };
        assert!(accepts("application/json"));
        assert!(accepts("text/html, Application/JSON;q=0.9"));
        assert!(!accepts("*/*"));
        assert!(!accepts("application/jsonlines"));
        assert!(!super::accepts(&HeaderMap::new(), "application/json"));
    }

    #[test]
    fn the_description_has_every_path_and_no_other() {
        let description: serde_json::Value = serde_json::from_str(service::OPENAPI).unwrap();
        let described: BTreeSet<_> = description["paths"].as_object().unwrap().keys().cloned().collect();
        // A path in OpenAPI cannot say that a part of it has slashes.
        let served =
            routes().into_iter().chain(compat::routes()).map(|(path, _)| path.replace("{*", "{")).collect();
        assert_eq!(described, served);
    }
}
