//! What init and the control channel ask the file monitor's ledger (`docs/spec/ledger-api.md`): the baseline, measured into
//! PCR16 before anything starts, and the state of the ledger, for attestation documents.
//!
//! One short answer on a connection of its own; whoever wants proofs has a client for them.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Where the file monitor answers.
pub const LEDGER_SOCKET_PATH: &str = "/run/glasshouse-private/ledger.sock";

/// Where it keeps the ledger, which ends with the enclave.
pub(crate) const STATE_DIRECTORY: &str = "/run/glasshouse-private/ledger";

/// Longest answer, in bytes: a head and a body.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// Longest body, in bytes. A baseline has less than 256, a checkpoint with its note some 800.
const MAX_BODY_BYTES: usize = 8 * 1024;

/// The monitor is ready when it is asked, and the answer is at hand.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Asks the file monitor for the baseline.
pub(crate) async fn baseline() -> io::Result<Vec<u8>> {
    get(Path::new(LEDGER_SOCKET_PATH), "/v1/baseline", ANSWER_WITHIN).await
}

/// The body of the ledger's answer to `GET target`: 1 to 8,192 bytes.
///
/// # Errors
/// When there is no ledger at `socket`, or no good answer within `limit`.
pub async fn get(socket: &Path, target: &str, limit: Duration) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        let request = format!("GET {target} HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        let body = body(&answer).map(<[u8]>::to_vec);
        body.ok_or_else(|| io::Error::other(format!("the monitor has no good answer to {target}")))
    };
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The body of a whole answer with status 200 and a length.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let body = answer.get(end.checked_add(4)?..)?;
    let mut lines = head.split("\r\n");
    if !lines.next()?.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (body.len() == length && (1..=MAX_BODY_BYTES).contains(&length)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_whole_body_with_a_good_status() {
        let answer = |head: &str, body: &str| [head.as_bytes(), b"\r\n\r\n", body.as_bytes()].concat();
        let good = answer("HTTP/1.1 200 OK\r\nContent-Type: application/cbor\r\nContent-Length: 3", "abc");
        assert_eq!(body(&good), Some(b"abc".as_slice()));
        for bad in [
            answer("HTTP/1.1 409 Conflict\r\ncontent-length: 3", "abc"),
            answer("HTTP/1.1 200 OK\r\ncontent-length: 4", "abc"),
            answer("HTTP/1.1 200 OK\r\ncontent-length: 0", ""),
            answer("HTTP/1.1 200 OK", "abc"),
            answer("HTTP/1.1 200 OK\r\ncontent-length: 9000", &"x".repeat(9000)),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(body(&bad), None, "{}", String::from_utf8_lossy(&bad));
        }
    }
}
