#![no_main]
//! Any request to the attestation server: it is answered, with a status that is no failure of the server's.
use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    body::Body,
    http::{Method, Request},
};
use libfuzzer_sys::fuzz_target;
use nsm::{ErrorCode, Transact, wire};
use ra_web_srv::{Config, Server};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A module that is never asked anything that would take time.
struct Refusing;

impl Transact for Refusing {
    fn transact(&self, _: &wire::Request) -> Result<wire::Response, nsm::Error> {
        Ok(wire::Response::Error(ErrorCode::InternalError))
    }
}

struct World {
    runtime: Runtime,
    router: Router,
    _server: Server,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let config = Config { manifest: Some(b"{}".to_vec()), ..Config::default() };
        let server = runtime.block_on(Server::bind(config, Arc::new(Refusing))).expect("no address is listened on");
        World { router: server.public_router(), runtime, _server: server }
    })
}

fuzz_target!(|input: (bool, &str, &[u8])| {
    let (post, target, body) = input;
    let method = if post { Method::POST } else { Method::GET };
    let Ok(request) = Request::builder().method(method).uri(target).body(Body::from(body.to_vec())) else { return };
    let World { runtime, router, .. } = world();
    let response = runtime.block_on(router.clone().oneshot(request)).expect("a router cannot fail");
    let status = response.status().as_u16();
    // 500 is the module's refusal, and 503 that too many ask it.
    assert!(matches!(status, 200..=499 | 500 | 503), "{target}: {status}");
});
