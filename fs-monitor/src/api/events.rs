//! Streams without end (server-sent events): entries as they come, from the log, and records of files.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use hyper::body::{Body as HttpBody, Frame};
use serde_json::Value;
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{MAX_AT_ONCE, Service, Shared, answers, error::ApiError, query::Parameters};

/// Messages that wait for a reader; then it is waited for.
const WAITING: usize = 16;

/// Every entry from a number on, or from now on, and a checkpoint after each portion. A slow reader misses nothing.
pub(super) async fn entries(State(service): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from"])?;
    let from = parameters.number("from")?.unwrap_or_else(|| service.ledger.size());
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(send_entries(service, from, sender));
    Ok(response(receiver))
}

async fn send_entries(service: Arc<Service>, mut from: u64, sender: mpsc::Sender<String>) {
    let mut grown = service.grown.subscribe();
    loop {
        grown.borrow_and_update();
        while let Some((text, next)) = portion(&service, from).await {
            from = next;
            if sender.send(text).await.is_err() {
                return;
            }
        }
        tokio::select! {
            outcome = grown.changed() => if outcome.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

/// The next entries as text, and the number of the one after them.
async fn portion(service: &Arc<Service>, from: u64) -> Option<(String, u64)> {
    let service = Arc::clone(service);
    let work = move || {
        let limit = usize::try_from(MAX_AT_ONCE).unwrap_or(1);
        let entries = service.ledger.entries(from, limit).ok()?;
        let (last, _) = entries.last()?;
        let mut text = String::new();
        for (index, entry) in &entries {
            text.push_str(&event("entry", Some(*index), &answers::entry(*index, entry)));
        }
        text.push_str(&event("checkpoint", None, &answers::checkpoint(&service.ledger)));
        Some((text, last.saturating_add(1)))
    };
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

/// Records of files as they are made, with their names. Who is too slow is told how many it missed.
pub(super) async fn changes(State(service): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Parameters::parse(query.as_deref(), &[])?;
    let monitor = service.monitor.get();
    let monitor = monitor.ok_or_else(|| ApiError::NotYet("the first scan is not done".to_owned()))?;
    let mut records = monitor.records();
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let record = tokio::select! {
                record = records.recv() => record,
                () = sender.closed() => return,
            };
            let text = match record {
                Ok(record) => event("file", Some(record.1.index), &answers::record(&record.0, &record.1)),
                Err(RecvError::Lagged(missed)) => event("missed", None, &missed.into()),
                Err(RecvError::Closed) => return,
            };
            if sender.send(text).await.is_err() {
                return;
            }
        }
    });
    Ok(response(receiver))
}

fn event(name: &str, id: Option<u64>, data: &Value) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}

fn response(receiver: mpsc::Receiver<String>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(Texts(receiver))).into_response()
}

/// A body of texts that come one after the other.
struct Texts(mpsc::Receiver<String>);

impl HttpBody for Texts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|text| text.map(|text| Ok(Frame::data(text.into()))))
    }
}
