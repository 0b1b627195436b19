//! The way of a record into the ledger's stream `egress`: `docs/spec/ledger-api.md`.

use std::{io, path::PathBuf, time::Duration};

use egress::Record;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

/// How long the ledger may take to make a record durable.
const APPEND_WITHIN: Duration = Duration::from_secs(10);

/// After how long it is asked again, first and at most. It is started again when it ends.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// The ledger behind a socket.
#[derive(Debug)]
pub(super) struct Ledger {
    socket: PathBuf,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
enum AppendError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    #[error("no answer within {} s", APPEND_WITHIN.as_secs())]
    Slow,
    #[error("it answered {0}")]
    Status(hyper::StatusCode),
}

impl Ledger {
    /// A ledger that need not be there yet.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, connection: None }
    }

    /// Appends a record, as often as it takes: nothing else is recorded before it is there. An answer that was lost makes
    /// two of one.
    pub(super) async fn append(&mut self, record: &Record) {
        let payload = Bytes::from(record.to_cbor());
        let mut pause = RETRY_FIRST;
        loop {
            let appended = timeout(APPEND_WITHIN, self.post(payload.clone())).await;
            let Err(error) = appended.unwrap_or(Err(AppendError::Slow)) else { return };
            self.connection = None;
            warn(&error);
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    async fn post(&mut self, payload: Bytes) -> Result<(), AppendError> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await?;
        let request = Request::post("/v1/stream/egress").header("host", "ledger").body(Full::new(payload));
        let request = request.expect("a constant target and a constant header");
        let mut answer = connection.send_request(request).await?;
        let status = answer.status();
        // What is not read keeps the connection from its next request. It is a line.
        while let Some(frame) = answer.body_mut().frame().await {
            frame?;
        }
        if !status.is_success() {
            return Err(AppendError::Status(status));
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, AppendError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(AppendError::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It moves bytes while there is a sender; what fails there fails the sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn warn(error: &AppendError) {
    let reason: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(reason, "the ledger does not take a record; trying again");
}

#[cfg(test)]
mod tests {
    use egress::{Destination, Policy, Protocol};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    fn record(port: u16) -> Record {
        let policy = Policy::compile(&[], &[], &[]).unwrap();
        let destination = Destination::Name("a.example".parse().unwrap());
        let verdict = policy.evaluate(&destination, port, Protocol::Tcp);
        Record::begin(7, &destination, port, Protocol::Tcp, &verdict)
    }

    /// Reads one request; its body.
    async fn request(stream: &mut UnixStream) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
                assert!(head.starts_with("post /v1/stream/egress "), "{head}");
                let length = head.split_once("content-length: ").unwrap().1;
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if bytes.len() >= end + 4 + length {
                    return Some(bytes.split_off(end + 4));
                }
            }
            if stream.read_buf(&mut bytes).await.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn answer(stream: &mut UnixStream, status: &str) {
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn records_follow_each_other_on_one_connection_and_survive_the_ledgers_restart() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ledger.sock");
        let mut ledger = Ledger::new(socket.clone());
        let records: Vec<_> = (1..5).map(record).collect();
        let sent = records.clone();
        let writing = tokio::spawn(async move {
            for record in &sent {
                ledger.append(record).await;
            }
        });
        let listener = UnixListener::bind(&socket).unwrap();
        let next = async || timeout(Duration::from_secs(60), listener.accept()).await.unwrap().unwrap().0;
        let mut stream = next().await;
        for record in &records[..2] {
            assert_eq!(Record::from_cbor(&request(&mut stream).await.unwrap()).unwrap(), *record);
            answer(&mut stream, "200 OK").await;
        }
        // Asked, and ended before it has answered; then not able to for a while.
        assert!(request(&mut stream).await.is_some());
        drop(stream);
        let mut stream = next().await;
        assert!(request(&mut stream).await.is_some());
        answer(&mut stream, "503 Service Unavailable").await;
        let mut stream = next().await;
        for record in &records[2..] {
            assert_eq!(Record::from_cbor(&request(&mut stream).await.unwrap()).unwrap(), *record);
            answer(&mut stream, "200 OK").await;
        }
        writing.await.unwrap();
    }
}
