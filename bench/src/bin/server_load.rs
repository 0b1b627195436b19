//! Load for `bench/server`, over TLS 1.3.
//!
//! `server_load attest HOST:PORT CONNECTIONS SECONDS`: so many connections that ask for one document after the other, each with a
//! nonce of its own, which has to come back. Prints `RATE P50 P99` (a second, milliseconds).
//!
//! `server_load slow HOST:PORT CLIENTS PID SECONDS`: new connections that ask one thing, one after the other, alone and then beside
//! so many clients that send a byte of a request's head every half second. Prints
//! `P50 P99 P50 P99 KIB` (milliseconds alone, then beside them; how much the anonymous memory of the process grew at most).

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use channel::AnyCertificate;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Not counted, while connections are made.
const WARM_UP: Duration = Duration::from_secs(1);
/// How many slow clients come in a second, at first and whenever the server has dropped them.
const SLOW_A_SECOND: u64 = 100;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match words[..] {
        ["attest", server, connections, seconds] => {
            runtime.block_on(attest(server, connections.parse()?, Duration::from_secs(seconds.parse()?)))
        }
        ["slow", server, clients, pid, seconds] => {
            let lasting = Duration::from_secs(seconds.parse()?);
            runtime.block_on(slow(server, clients.parse()?, pid.parse()?, lasting))
        }
        _ => Err("attest HOST:PORT CONNECTIONS SECONDS, or slow HOST:PORT CLIENTS PID SECONDS".into()),
    }
}

/// Whoever answers: what is measured is not whether to believe it.
fn connector() -> Result<TlsConnector> {
    let provider = Arc::new(default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn connect(tls: &TlsConnector, server: &str) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(tls.connect(ServerName::try_from("localhost")?, stream).await?)
}

/// A connection, and what was read of it beyond the last answer.
struct Client {
    stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl Client {
    async fn ask(&mut self, target: &str) -> Result<Vec<u8>> {
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.read[..head]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            return Err(format!("{target}: {}", text.lines().next().unwrap_or_default()).into());
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.ok_or("an answer without a length")?.trim().parse()?;
        while self.read.len() < head + length {
            self.more().await?;
        }
        let rest = self.read.split_off(head + length);
        Ok(std::mem::replace(&mut self.read, rest).split_off(head))
    }

    async fn more(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err("the server hung up".into()),
            _ => Ok(()),
        }
    }
}

async fn attest(server: &str, connections: u64, lasting: Duration) -> Result<()> {
    let tls = connector()?;
    let start = Instant::now() + WARM_UP;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..connections {
        let (tls, server) = (tls.clone(), server.to_owned());
        clients.spawn(async move { ask_on(&tls, &server, number, start, start + lasting).await });
    }
    let mut waits = Vec::new();
    while let Some(client) = clients.join_next().await {
        waits.extend(client??);
    }
    let rate = waits.len() as f64 / lasting.as_secs_f64();
    let (p50, p99) = percentiles(waits)?;
    println!("{rate:.0} {p50:.1} {p99:.1}");
    Ok(())
}

/// The waits, in microseconds, of the questions that were asked from `start` to `end`.
async fn ask_on(tls: &TlsConnector, server: &str, number: u64, start: Instant, end: Instant) -> Result<Vec<u64>> {
    let mut client = Client { stream: connect(tls, server).await?, read: Vec::new() };
    let (mut waits, mut asked) = (Vec::new(), 0_u64);
    loop {
        let nonce = format!("{number:016x}{asked:016x}");
        asked += 1;
        let began = Instant::now();
        if began >= end {
            return Ok(waits);
        }
        let answer = client.ask(&format!("/v1/attestation?nonce={nonce}")).await?;
        if !answer.windows(nonce.len()).any(|part| part == nonce.as_bytes()) {
            return Err("an answer without the nonce".into());
        }
        if began >= start {
            waits.push(u64::try_from(began.elapsed().as_micros())?);
        }
    }
}

async fn slow(server: &str, clients: usize, pid: u32, lasting: Duration) -> Result<()> {
    let tls = connector()?;
    polite(&tls, server, WARM_UP).await?;
    let alone = percentiles(polite(&tls, server, lasting).await?)?;
    let before = anonymous_kib(pid)?;
    let open = Arc::new(AtomicUsize::new(0));
    let mut slow = tokio::task::JoinSet::new();
    let coming = clients as u64 * 1000 / SLOW_A_SECOND;
    for number in 0..clients as u64 {
        let (tls, server, open) = (tls.clone(), server.to_owned(), Arc::clone(&open));
        slow.spawn(async move {
            sleep(Duration::from_millis(number * 1000 / SLOW_A_SECOND)).await;
            dawdle(&tls, &server, &open).await
        });
    }
    // The first are dropped when the last come, and come again at the same pace.
    sleep(Duration::from_millis(coming)).await;
    let most = Arc::new(AtomicUsize::new(0));
    let watching = tokio::spawn(watch(pid, Arc::clone(&most), Arc::clone(&open)));
    let beside = percentiles(polite(&tls, server, lasting).await?)?;
    watching.abort();
    let grown = most.load(Ordering::Relaxed).saturating_sub(before);
    println!("{:.1} {:.1} {:.1} {:.1} {grown}", alone.0, alone.1, beside.0, beside.1);
    Ok(())
}

/// Questions on connections of their own, one after the other: how long each took, in microseconds.
async fn polite(tls: &TlsConnector, server: &str, lasting: Duration) -> Result<Vec<u64>> {
    let (begin, mut waits) = (Instant::now(), Vec::new());
    while begin.elapsed() < lasting {
        let began = Instant::now();
        let mut client = Client { stream: connect(tls, server).await?, read: Vec::new() };
        client.ask("/healthz").await?;
        waits.push(u64::try_from(began.elapsed().as_micros())?);
        sleep(Duration::from_millis(5)).await;
    }
    Ok(waits)
}

/// Sends a request's head byte by byte for ever, on a new connection whenever the server has had enough.
async fn dawdle(tls: &TlsConnector, server: &str, open: &AtomicUsize) -> Result<()> {
    loop {
        let mut stream = connect(tls, server).await?;
        open.fetch_add(1, Ordering::Relaxed);
        let _ = stream.write_all(b"GET /v1/attestation?nonce=00112233445566778899aabbccddeeff HTTP/1.1\r\nx: ").await;
        let mut end = [0; 1024];
        while let Err(_still_open) = timeout(Duration::from_millis(500), stream.read(&mut end)).await {
            if stream.write_all(b"x").await.is_err() {
                break;
            }
        }
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn watch(pid: u32, most: Arc<AtomicUsize>, open: Arc<AtomicUsize>) {
    loop {
        if let Ok(now) = anonymous_kib(pid) {
            most.fetch_max(now, Ordering::Relaxed);
        }
        eprintln!("{} slow clients are connected", open.load(Ordering::Relaxed));
        sleep(Duration::from_millis(500)).await;
    }
}

fn anonymous_kib(pid: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The median and the 99th percentile, from microseconds to milliseconds.
fn percentiles(mut waits: Vec<u64>) -> Result<(f64, f64)> {
    waits.sort_unstable();
    let at = |part: f64| waits.get((waits.len() as f64 * part) as usize).copied();
    let (p50, p99) = at(0.5).zip(at(0.99)).ok_or("nothing was answered")?;
    Ok((p50 as f64 / 1000.0, p99 as f64 / 1000.0))
}
