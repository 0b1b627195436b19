//! HTTP/2 used against the server, frame by frame: each flood has an end, and others are served meanwhile.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{PATIENCE, connect_tls, get, tls_config};
use crate::enclave::Enclave;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET https://x/healthz` in HPACK (RFC 7541): two of the static table, two with a value of their own.
const HEALTHZ: &[u8] = b"\x82\x87\x04\x08/healthz\x01\x01x";

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends a preface and `frames` until the server will have no more, and says whether it took all of them.
async fn send(enclave: &Enclave, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let stream = connect_tls(&enclave.tcp, tls_config(&[&rustls::version::TLS13]), &[b"h2"]).await.unwrap();
    let (mut receiving, mut sending) = tokio::io::split(stream);
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let sent = async {
        sending.write_all(&preface).await?;
        for frame in frames {
            sending.write_all(&frame).await?;
        }
        sending.shutdown().await
    };
    let mut answer = Vec::new();
    let both = async { tokio::join!(sent, receiving.read_to_end(&mut answer)) };
    let (sent, _) = tokio::time::timeout(PATIENCE, both).await.expect("the server neither reads nor closes");
    sent.is_ok()
}

/// CVE-2024-27316 and its like: header fields that go on in frame after frame and are kept until they end.
#[tokio::test]
async fn a_head_that_goes_on_for_ever_is_cut() {
    let enclave = Enclave::start().await;
    let fields = b"\x00\x01x\x01y".repeat(3000);
    let first = frame(HEADERS, END_STREAM, 1, HEALTHZ);
    let more = std::iter::repeat_with(|| frame(CONTINUATION, 0, 1, &fields)).take(4096);
    assert!(!send(&enclave, std::iter::once(first).chain(more)).await, "64 MB of one head were read");
    assert_eq!(get(&enclave.tcp, "/healthz", None).await.0.status, 200);
}

/// CVE-2023-44487: streams opened and reset at once do not count as open, whatever they cost.
#[tokio::test]
async fn requests_that_are_reset_at_once_keep_nobody_waiting() {
    let enclave = Enclave::start().await;
    let requests = (0..5000_u32).map(|number| {
        let stream = 2 * number + 1;
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, HEALTHZ);
        [open, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    let flood = send(&enclave, requests);
    let others = async {
        for _ in 0..5 {
            assert_eq!(get(&enclave.tcp, "/healthz", None).await.0.status, 200);
        }
    };
    tokio::join!(flood, others);
    assert_eq!(get(&enclave.tcp, "/healthz", None).await.0.status, 200);
}
