//! Accepts connections: a bounded number, each with a deadline for the head of its requests.

use std::{future::Future, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// Most connections at once. Further ones wait in the listener's queue.
const MAX_CONNECTIONS: u32 = 512;
/// How long the head of a request may take, a new one on an open connection included.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long requests under way may go on after the end was asked for.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be accepted, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `end` comes, and then what is under way.
pub async fn serve(listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut end = std::pin::pin!(end);
    let (ending, _) = tokio::sync::watch::channel(());
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            listener.accept().await.map(|(stream, _)| (permit, stream))
        };
        let (permit, stream) = tokio::select! {
            () = &mut end => break,
            accepted = next => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let service = TowerToHyperService::new(router.clone());
        let mut told = ending.subscribe();
        tokio::spawn(async move {
            let _permit = permit;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                _ = told.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection failed");
            }
        });
    }
    drop(ending);
    // Whoever is still there after that is cut off with the process.
    let _ = tokio::time::timeout(DRAIN_WITHIN, permits.acquire_many(MAX_CONNECTIONS)).await;
}
