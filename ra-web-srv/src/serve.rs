//! One door of the server: accepts connections, bounds them, and speaks HTTP on each.
//!
//! A failed connection ends itself and nothing else. What a request means is the router's business.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::Instrument;
use transport::{Listener, Stream};

use crate::certificates::ALPN_ACME;
use crate::compat::MAX_COMPAT_BODY_BYTES;
use crate::error::ApiError;
use crate::identity::ALPN_HTTP2;
use crate::limits::{Limits, MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADER_FIELDS, MAX_HTTP2_STREAMS};
use crate::server::ListenerBroken;

/// Becomes true once, when the server is to stop.
pub(crate) type Stop = watch::Receiver<bool>;

/// What listens, what answers, and how much of it at once.
#[derive(Clone)]
pub(crate) struct Door {
    tls: Option<TlsAcceptor>,
    router: Router,
    slots: Arc<Semaphore>,
    limits: Limits,
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no TLS handshake within {} s", .0.as_secs())]
    HandshakeTimeout(Duration),
    #[error("TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("HTTP failed")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
}

enum Http {
    One,
    Two,
}

impl Door {
    /// A door that answers with `router`: over TLS if `tls` is given, else in plain HTTP/1.1.
    pub(crate) fn new(tls: Option<TlsAcceptor>, router: Router, limits: &Limits) -> Self {
        let router = router
            .fallback(async || ApiError::NoSuchPath)
            .method_not_allowed_fallback(async || ApiError::NoSuchMethod)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(from_fn_with_state(limits.request, answer_within));
        Self { tls, router, slots: Arc::new(Semaphore::new(limits.connections)), limits: limits.clone() }
    }

    /// Serves `listener` until `stop` or until it breaks, then gives open connections [`Limits::drain`] to finish.
    pub(crate) async fn serve(self, listener: Listener, mut stop: Stop) -> Result<(), ListenerBroken> {
        let mut connections = JoinSet::new();
        let outcome = self.accept_all(&listener, &mut connections, &mut stop).await;
        let outcome =
            outcome.map_err(|source| ListenerBroken { addr: listener.local_addr().clone(), source });
        drop(listener);
        // Whatever is still open after that is cut when the set is dropped.
        let _ = timeout(self.limits.drain, async { while connections.join_next().await.is_some() {} }).await;
        outcome
    }

    async fn accept_all(
        &self,
        listener: &Listener,
        connections: &mut JoinSet<()>,
        stop: &mut Stop,
    ) -> std::io::Result<()> {
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => accepted?,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            // Taken after accepting: a listener that nobody calls must not hold a slot that another could use.
            let slot = tokio::select! {
                slot = Arc::clone(&self.slots).acquire_owned() => slot.expect("the semaphore is never closed"),
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            while connections.try_join_next().is_some() {}
            let span = tracing::debug_span!("connection", client.addr = %peer);
            connections.spawn(self.clone().connection(stream, slot, stop.clone()).instrument(span));
        }
    }

    async fn connection(self, stream: Stream, _slot: OwnedSemaphorePermit, stop: Stop) {
        let outcome = match &self.tls {
            None => self.http(stream, Http::One, stop).await,
            Some(tls) => self.https(tls, stream, stop).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(error = &error as &dyn std::error::Error, "connection failed");
        }
    }

    async fn https(&self, tls: &TlsAcceptor, stream: Stream, stop: Stop) -> Result<(), ConnectionError> {
        let stream = timeout(self.limits.handshake, tls.accept(stream))
            .await
            .map_err(|_| ConnectionError::HandshakeTimeout(self.limits.handshake))?
            .map_err(ConnectionError::Handshake)?;
        let http = match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_HTTP2) => Http::Two,
            // An authority has seen what it wanted to see: the certificate.
            Some(ALPN_ACME) => return Ok(()),
            // A client that sends no ALPN gets HTTP/1.1.
            _ => Http::One,
        };
        self.http(stream, http, stop).await
    }

    async fn http<S>(&self, stream: S, http: Http, mut stop: Stop) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = self.http_builder(&http);
        let service = TowerToHyperService::new(self.router.clone());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            outcome = connection.as_mut() => return outcome.map_err(ConnectionError::Http),
            _ = stop.wait_for(|stop| *stop) => {}
            () = sleep(self.limits.connection_lifetime) => {}
        }
        connection.as_mut().graceful_shutdown();
        match timeout(self.limits.drain, connection).await {
            Ok(outcome) => outcome.map_err(ConnectionError::Http),
            Err(_) => Ok(()),
        }
    }

    /// The version is fixed by ALPN, never guessed from the first bytes: guessing has no timeout.
    fn http_builder(&self, http: &Http) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADER_FIELDS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).expect("16 KiB fit u32"))
            .max_concurrent_streams(MAX_HTTP2_STREAMS)
            .keep_alive_interval(self.limits.header_read)
            .keep_alive_timeout(self.limits.header_read);
        match http {
            Http::One => builder.http1_only(),
            Http::Two => builder.http2_only(),
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("tls", &self.tls.is_some())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A body that says at once that it is longer than any that is read here is not waited for.
fn announces_too_much(request: &Request) -> bool {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    request.method() == Method::POST
        && length.is_some_and(|length: u64| length > MAX_COMPAT_BODY_BYTES as u64)
}

async fn answer_within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    if announces_too_much(&request) {
        return ApiError::BodyTooLarge { most: MAX_COMPAT_BODY_BYTES }.into_response();
    }
    timeout(limit, next.run(request)).await.unwrap_or_else(|_| ApiError::TooSlow.into_response())
}
