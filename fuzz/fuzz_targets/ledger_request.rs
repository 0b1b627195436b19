#![no_main]
//! Any request to the ledger's socket: it is answered, with a status that is no failure, and a path has one spelling.
use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    body::Body,
    http::{Method, Request},
};
use fs_monitor::api::Service;
use ledger::store::{Ledger, Options};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// What has parameters; the last is for any target.
const TARGETS: [&str; 9] = [
    "/v1/file/record?",
    "/v1/file/proof?",
    "/v1/file/history?",
    "/v1/consistency?",
    "/v1/entries?",
    "/v1/events?",
    "/v1/stream/app/a?",
    "/v1/tile/",
    "/",
];

struct World {
    runtime: Runtime,
    router: Router,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        // Nothing is left of it: the file lives for as long as it is open.
        let ledger = Ledger::open(&folder.path().join("ledger"), 1, Options::default()).expect("a ledger");
        World { runtime, router: Arc::new(Service::new(Arc::new(ledger), Vec::new())).router() }
    })
}

fuzz_target!(|input: (bool, u8, &str, &[u8])| {
    let (post, which, rest, body) = input;
    let method = if post { Method::POST } else { Method::GET };
    let target = format!("{}{rest}", TARGETS[usize::from(which) % TARGETS.len()]);
    let Ok(request) = Request::builder().method(method).uri(&target).body(Body::from(body.to_vec())) else { return };
    let World { runtime, router } = world();
    let response = runtime.block_on(router.clone().oneshot(request)).expect("a router cannot fail");
    let status = response.status().as_u16();
    // Before the first scan is done nobody is promised anything.
    let unhealthy = status == 503 && target.starts_with("/healthz");
    assert!(matches!(status, 200..=499) || unhealthy, "{target}: {status}");
});
