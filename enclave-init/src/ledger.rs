//! The ledger's baseline: what the file monitor found before anything started, measured into PCR16 once it is there.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Where the file monitor answers (`docs/spec/ledger-api.md`).
pub(crate) const LEDGER_SOCKET_PATH: &str = "/run/glasshouse-private/ledger.sock";

/// Where it keeps the ledger, which ends with the enclave.
pub(crate) const STATE_DIRECTORY: &str = "/run/glasshouse-private/ledger";

/// Longest answer, in bytes: a head and less than 256 bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// Longest baseline, in bytes.
const MAX_BASELINE_BYTES: usize = 1024;

/// The monitor is ready when it is asked, and the answer is a file it has at hand.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Asks the file monitor for the baseline.
pub(crate) async fn baseline() -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = UnixStream::connect(LEDGER_SOCKET_PATH).await?;
        stream.write_all(b"GET /v1/baseline HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        body(&answer)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::Error::other("the monitor does not say its baseline"))
    };
    timeout(ANSWER_WITHIN, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
    (body.len() == length && (1..=MAX_BASELINE_BYTES).contains(&length)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_is_the_whole_body_of_a_good_answer() {
        let answer = |head: &str, body: &str| [head.as_bytes(), b"\r\n\r\n", body.as_bytes()].concat();
        let good = answer("HTTP/1.1 200 OK\r\nContent-Type: application/cbor\r\nContent-Length: 3", "abc");
        assert_eq!(body(&good), Some(b"abc".as_slice()));
        for bad in [
            answer("HTTP/1.1 409 Conflict\r\ncontent-length: 3", "abc"),
            answer("HTTP/1.1 200 OK\r\ncontent-length: 4", "abc"),
            answer("HTTP/1.1 200 OK\r\ncontent-length: 0", ""),
            answer("HTTP/1.1 200 OK", "abc"),
            answer("HTTP/1.1 200 OK\r\ncontent-length: 2000", &"x".repeat(2000)),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(body(&bad), None, "{}", String::from_utf8_lossy(&bad));
        }
    }
}
