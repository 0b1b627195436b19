//! Sends what the ledger holds to NATS JetStream too, for fleets: each entry as an event, and of each file its last record
//! under a key. At least once: where to go on is kept beside the ledger, and moves when the servers have acknowledged.
//!
//! The servers are not trusted. Nothing is read back from them but acknowledgements, and what fails here fails nothing else: the
//! ledger is complete without them. Spec: `docs/spec/nats.md`.

mod key;
mod paths;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{self, stream},
};
use ledger::store::{self, Ledger, Logged, What};
use manifest::Nats;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::paths::Paths;
use crate::{api::answers, monitor::Handle};

/// Where to go on, in the directory of the state.
const CURSOR_FILE: &str = "nats";
/// Entries sent before their acknowledgements are waited for.
const BATCH: usize = 256;
/// How long a server is given for anything.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Failures in a row that nobody has to be told of: an enclave opens its way out after the monitor is ready.
const QUIET_FAILURES: u32 = 2;
/// From one try to the next: the first time, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What became of it so far.
#[derive(Debug, Default)]
pub(crate) struct Sent(Mutex<(u64, Option<String>)>);

impl Sent {
    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the status: the first entry that is not acknowledged, and what is wrong.
    pub(crate) fn status(&self) -> Value {
        let (next, why) = &*self.lock();
        match why {
            Some(why) => json!({"next": next, "why": why}),
            None => json!({"next": next}),
        }
    }
}

/// Sends a ledger's entries.
#[derive(Debug)]
pub(crate) struct Sink {
    ledger: Arc<Ledger>,
    config: Nats,
    cursor: PathBuf,
    next: u64,
    paths: Arc<Mutex<Paths>>,
    grown: watch::Receiver<u64>,
    sent: Arc<Sent>,
}

impl Sink {
    /// A sink that goes on where the one before it was.
    pub(crate) fn new(
        config: Nats,
        state: &Path,
        ledger: Arc<Ledger>,
        monitor: &Handle,
        grown: watch::Receiver<u64>,
    ) -> Self {
        let cursor = state.join(CURSOR_FILE);
        // Lost or not a number: everything is sent again, which is allowed.
        let next = fs::read_to_string(&cursor).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let next = ledger.size().min(next);
        let sent = Arc::new(Sent(Mutex::new((next, Some("not connected yet".to_owned())))));
        let paths = Arc::new(Mutex::new(Paths::new(Arc::clone(&ledger), monitor.records())));
        Self { ledger, config, cursor, next, paths, grown, sent }
    }

    /// What it tells of itself.
    pub(crate) fn sent(&self) -> Arc<Sent> {
        Arc::clone(&self.sent)
    }

    /// Sends without end.
    pub(crate) async fn run(mut self) {
        let (mut pause, mut failures) = (PAUSES.0, 0_u32);
        loop {
            let before = self.next;
            let Err(error) = self.session().await;
            let why = error.to_string();
            failures = if self.next > before { 1 } else { failures.saturating_add(1) };
            if failures > QUIET_FAILURES {
                tracing::warn!(why, next = self.next, "events wait to be sent to NATS");
            } else {
                tracing::debug!(why, next = self.next, "no connection to NATS yet");
            }
            self.sent.lock().1 = Some(why);
            pause = if self.next > before { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible, Failure> {
        let server = self.connect().await?;
        tracing::info!(next = self.next, "events go to NATS");
        loop {
            self.grown.borrow_and_update();
            while self.send_some(&server).await? {}
            self.grown.changed().await?;
        }
    }

    /// A connection, and the stream and the bucket, which are made if they are not there.
    async fn connect(&self) -> Result<jetstream::Context, Failure> {
        let Nats { servers, stream: name } = &self.config;
        let options = async_nats::ConnectOptions::new()
            .name(self.ledger.origin())
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            // Whom it may talk to is measured.
            .ignore_discovered_servers()
            .max_reconnects(1)
            .tls_client_config(tls()?);
        let context = jetstream::new(options.connect(servers.as_slice()).await?);
        let events = stream::Config {
            name: name.clone(),
            subjects: vec![format!("{name}.>")],
            ..stream::Config::default()
        };
        context.get_or_create_stream(events).await?;
        // A bucket as NATS' clients make it (its ADR-8): a stream that keeps one message of a subject.
        let bucket = stream::Config {
            name: format!("KV_{name}"),
            subjects: vec![format!("$KV.{name}.>")],
            max_messages_per_subject: 1,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..stream::Config::default()
        };
        context.get_or_create_stream(bucket).await?;
        Ok(context)
    }

    /// Sends the next entries and waits until all of them are acknowledged; says whether there were any.
    async fn send_some(&mut self, server: &jetstream::Context) -> Result<bool, Failure> {
        let (ledger, paths) = (Arc::clone(&self.ledger), Arc::clone(&self.paths));
        let (stream, from) = (self.config.stream.clone(), self.next);
        let work = move || {
            let entries = ledger.logged(from, BATCH)?;
            let mut paths = paths.lock().unwrap_or_else(PoisonError::into_inner);
            let messages = messages(&stream, &ledger, &entries, &mut paths)?;
            Ok::<_, store::Error>(entries.last().map(|last| (last.index + 1, messages)))
        };
        let Some((next, messages)) = tokio::task::spawn_blocking(work).await?? else {
            self.sent.lock().1 = None;
            return Ok(false);
        };
        let mut acknowledgements = Vec::with_capacity(messages.len());
        for Message { subject, id, body } in messages {
            let mut headers = HeaderMap::new();
            if let Some(id) = id {
                headers.insert("Nats-Msg-Id", id);
            }
            let body = body.to_string().into();
            acknowledgements.push(server.publish_with_headers(subject, headers, body).await?);
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await?;
        }
        self.advance(next)?;
        Ok(true)
    }

    fn advance(&mut self, next: u64) -> io::Result<()> {
        self.next = next;
        *self.sent.lock() = (next, None);
        // Not synced: what is lost with a crash is sent again.
        let new = self.cursor.with_extension("new");
        fs::write(&new, next.to_string())?;
        fs::rename(&new, &self.cursor)
    }
}

/// What is sent.
struct Message {
    subject: String,
    /// By which a server knows that it has the message already. A record under a key has none: the last one stands.
    id: Option<String>,
    body: Value,
}

/// An event for each entry, in their order, then the last record of each file among them, then the checkpoint.
fn messages(
    stream: &str,
    ledger: &Ledger,
    entries: &[Logged],
    paths: &mut Paths,
) -> Result<Vec<Message>, store::Error> {
    let name = ledger.origin().rsplit('/').next().unwrap_or_default();
    let (mut messages, mut records) = (Vec::with_capacity(2 * entries.len() + 1), HashMap::new());
    for Logged { index, entry, what } in entries {
        let mut body = answers::entry(*index, entry);
        match what {
            What::File(observation) => {
                let path = paths.path(*index, &entry.subject)?;
                let record = answers::record(&path, observation);
                body["record"] = record.clone();
                records.insert(key::key(name, &path), record);
            }
            What::Gap(gap) => body["gap"] = answers::gap(gap),
            // What applications append is theirs: the entry has its digest alone.
            What::Stream(_) => {}
        }
        let subject = format!("{stream}.{name}.{}", body["kind"].as_str().unwrap_or("entry"));
        messages.push(Message { subject, id: Some(format!("{name}-{index}")), body });
    }
    messages.extend(records.into_iter().map(|(key, body)| {
        let subject = format!("$KV.{stream}.{key}");
        Message { subject, id: None, body }
    }));
    let body = answers::checkpoint(ledger);
    let id = Some(format!("{name}-checkpoint-{}", body["size"]));
    messages.push(Message { subject: format!("{stream}.{name}.checkpoint"), id, body });
    Ok(messages)
}

/// TLS towards servers whose certificates Mozilla's authorities signed, for `tls://`.
fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
