//! Broken modules and hostile peers: each meets a clear end, and the server goes on.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use ra_web_srv::{Config, Limits, Server, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use transport::{Addr, BindError, Stream};

use crate::client::{Answer, PATIENCE, ask, connect, connect_tls, get, http2_sender, tls_config, until};
use crate::enclave::{Confused, Enclave, Held, Refusing, names_in};

const ATTESTATION: &str = "/v1/attestation?nonce=0011223344556677";
/// A limit that is waited out, and that nothing else meets: what has to be done within it does not count.
const SHORT: Duration = Duration::from_millis(200);
/// A limit that is waited out, within which something has to be done first, on a machine that is busy.
const ENOUGH: Duration = Duration::from_secs(3);

/// What the peer receives until the server closes; a reset counts as closed.
async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut received = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server hung");
    received
}

async fn is_alive(addr: &Addr) -> bool {
    get(addr, "/healthz", None).await.0.status == 200
}

async fn tls(enclave: &Enclave, protocol: &[u8]) -> TlsStream<Stream> {
    connect_tls(&enclave.tcp, tls_config(&[&rustls::version::TLS13]), &[protocol]).await.unwrap()
}

async fn attestation(addr: Addr) -> Answer {
    get(&addr, ATTESTATION, None).await.0
}

#[tokio::test]
async fn a_failing_module_is_a_500_and_the_server_lives() {
    let enclave = Enclave::start_on_module(Refusing, crate::enclave::patient()).await;
    for _ in 0..2 {
        let (answer, _) = get(&enclave.tcp, ATTESTATION, None).await;
        assert_eq!(answer.refusal(), (500, "nsm_failed".to_owned()));
    }
    let request = Request::post("/v1/attest").header("host", "x").body(Full::from("{}")).unwrap();
    let answer = ask(connect(&enclave.api).await, request).await;
    assert_eq!(answer.refusal(), (500, "nsm_failed".to_owned()));
    assert!(is_alive(&enclave.tcp).await);
}

#[tokio::test]
async fn a_full_queue_is_a_503_at_once_and_the_rest_are_served() {
    let module = Held::default();
    let enclave =
        Enclave::start_on_module(module.clone(), Limits { nsm_queue: 2, ..crate::enclave::patient() }).await;
    let mut asked = JoinSet::new();
    asked.spawn(attestation(enclave.tcp.clone()));
    until(|| module.asked() == 1).await;
    // One is with the module. Two of these find a place in the queue; the third has its answer while they wait.
    for _ in 0..3 {
        asked.spawn(attestation(enclave.tcp.clone()));
    }
    let refused = asked.join_next().await.unwrap().unwrap();
    assert_eq!(refused.refusal(), (503, "nsm_busy".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    module.release();
    let served = asked.join_all().await;
    assert_eq!(served.len(), 3);
    assert!(served.iter().all(|answer| answer.status == 200), "{served:?}");
}

#[tokio::test]
async fn a_crowd_outside_does_not_keep_the_application_out() {
    let module = Held::default();
    let enclave =
        Enclave::start_on_module(module.clone(), Limits { nsm_queue: 1, ..crate::enclave::patient() }).await;
    let mut crowd = JoinSet::new();
    for _ in 0..3 {
        crowd.spawn(attestation(enclave.tcp.clone()));
    }
    let refused = crowd.join_next().await.unwrap().unwrap();
    assert_eq!(refused.refusal(), (503, "nsm_busy".to_owned()));
    let request = Request::post("/v1/attest").header("host", "x").body(Full::from("{}")).unwrap();
    let application = tokio::spawn(ask(connect(&enclave.api).await, request));
    until(|| module.asked() == 2).await;
    module.release();
    assert_eq!(application.await.unwrap().status, 200);
}

#[tokio::test]
async fn whoever_gave_up_waiting_costs_the_module_nothing() {
    let module = Held::default();
    let enclave =
        Enclave::start_on_module(module.clone(), Limits { nsm_answer: ENOUGH, ..crate::enclave::patient() })
            .await;
    let first = tokio::spawn(attestation(enclave.tcp.clone()));
    until(|| module.asked() == 1).await;
    let second = attestation(enclave.tcp.clone()).await;
    for answer in [first.await.unwrap(), second] {
        assert_eq!(answer.refusal(), (503, "nsm_busy".to_owned()));
    }
    assert_eq!(module.asked(), 1, "the second waited behind the first");
    module.release();
    assert_eq!(attestation(enclave.tcp.clone()).await.status, 200);
    assert_eq!(module.asked(), 2, "the second was not asked any more");
}

#[tokio::test]
async fn a_silent_peer_is_dropped_before_the_handshake() {
    let enclave = Enclave::start_with(Limits { handshake: ENOUGH, ..crate::enclave::patient() }).await;
    // Nothing at all, and the first bytes of a ClientHello record.
    let (mut mute, mut slow) = (connect(&enclave.tcp).await, connect(&enclave.tcp).await);
    slow.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    assert_eq!(read_to_end(&mut mute).await, b"");
    assert_eq!(read_to_end(&mut slow).await, b"");
    assert!(is_alive(&enclave.tcp).await);
}

/// A slot was once taken before accepting, so that of two listeners with one slot the idle one kept it for ever.
#[tokio::test]
async fn a_silent_peer_gives_its_slot_back() {
    let enclave =
        Enclave::start_with(Limits { connections: 1, handshake: ENOUGH, ..crate::enclave::patient() }).await;
    let _silent = connect(&enclave.tcp).await;
    assert!(is_alive(&enclave.tcp).await);
}

#[tokio::test]
async fn a_request_head_that_does_not_end_is_dropped() {
    let enclave = Enclave::start_with(Limits { header_read: SHORT, ..crate::enclave::patient() }).await;
    for beginning in [&b""[..], b"GET /healthz HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = tls(&enclave, b"http/1.1").await;
        stream.write_all(beginning).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_connection_ends_when_its_lifetime_does() {
    let limits = Limits { connection_lifetime: ENOUGH, drain: SHORT, ..crate::enclave::patient() };
    let enclave = Enclave::start_with(limits).await;
    // HTTP/2 has no time limit of its own for a client that never sends its preface.
    let ends = async |protocol| read_to_end(&mut tls(&enclave, protocol).await).await;
    tokio::join!(ends(b"h2"), ends(b"http/1.1"));
}

#[tokio::test]
async fn a_request_head_beyond_the_limits_is_a_431() {
    let enclave = Enclave::start().await;
    let long_field = format!("x: {}\r\n", "y".repeat(16 * 1024));
    let many_fields = "x: y\r\n".repeat(65);
    for fields in [long_field, many_fields] {
        let mut stream = tls(&enclave, b"http/1.1").await;
        let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(is_alive(&enclave.tcp).await);
}

/// Whoever passes requests on, and reads another name than we do, is not to be confused by our answer.
#[tokio::test]
async fn a_request_has_one_host() {
    let enclave = Enclave::start().await;
    for (fields, status) in
        [("", "400"), ("host: x\r\nhost: x\r\n", "400"), ("host: x\r\n", "200"), ("host:\r\n", "200")]
    {
        let mut stream = tls(&enclave, b"http/1.1").await;
        let head = format!("GET /healthz HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields:?}: {answer}");
        assert_eq!(answer.contains("host_malformed"), status == "400", "{answer}");
    }
}

#[tokio::test]
async fn a_request_head_beyond_the_limits_is_refused_in_http2_too() {
    let enclave = Enclave::start().await;
    let mut sender = http2_sender(&enclave.tcp).await;
    let request = Request::get("https://localhost/healthz").header("x", "y".repeat(20 * 1024));
    let asked = sender.send_request(request.body(Full::<Bytes>::default()).unwrap());
    let outcome = tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert!(outcome.is_err() || outcome.is_ok_and(|response| response.status() == 431));
    assert!(is_alive(&enclave.tcp).await);
}

#[tokio::test]
async fn a_body_sent_to_a_path_that_reads_none_is_not_waited_for() {
    let enclave = Enclave::start().await;
    let mut stream = tls(&enclave, b"http/1.1").await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let enclave = Enclave::start_with(Limits { request: SHORT, ..crate::enclave::patient() }).await;
    let mut stream = connect(&enclave.api).await;
    stream.write_all(b"POST /v1/attest HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn plain_http_on_the_tls_port_ends_cleanly() {
    let enclave = Enclave::start().await;
    for addr in [&enclave.tcp, &enclave.unix] {
        let mut stream = connect(addr).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = read_to_end(&mut stream).await;
        // A TLS alert record (RFC 8446, section 6), or nothing if the reset overtook it.
        assert!(answer.is_empty() || answer[0] == 21, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(is_alive(&enclave.tcp).await);
}

#[tokio::test]
async fn stopping_finishes_the_request_in_progress_and_leaves_no_socket() {
    let module = Held::default();
    let limits = Limits { drain: PATIENCE, ..crate::enclave::patient() };
    let enclave = Enclave::start_on_module(module.clone(), limits).await;
    let (tcp, api) = (enclave.tcp.clone(), enclave.api.clone());
    let in_progress = tokio::spawn(attestation(tcp.clone()));
    until(|| module.asked() == 1).await;
    let stopping = tokio::spawn(enclave.stop());
    let gone = async {
        while Stream::connect(&tcp, PATIENCE).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    module.release();
    assert_eq!(in_progress.await.unwrap().status, 200);
    let dir = stopping.await.unwrap();
    assert_eq!(names_in(dir.path()), Vec::<String>::new());
    assert!(Stream::connect(&api, PATIENCE).await.is_err());
}

#[tokio::test]
async fn stopping_cuts_a_request_that_does_not_end() {
    let module = Held::default();
    let enclave =
        Enclave::start_on_module(module.clone(), Limits { drain: SHORT, ..crate::enclave::patient() }).await;
    let mut stream = tls(&enclave, b"http/1.1").await;
    stream.write_all(format!("GET {ATTESTATION} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    until(|| module.asked() == 1).await;
    enclave.stop().await;
    assert_eq!(read_to_end(&mut stream).await, b"");
    module.release();
}

#[tokio::test]
async fn a_second_server_at_the_same_address_does_not_start() {
    let enclave = Enclave::start().await;
    let config = Config { listen: vec![enclave.unix.clone()], ..Config::default() };
    let second = Server::bind(config, Arc::new(Refusing)).await;
    assert!(matches!(second, Err(StartError::Bind(BindError::InUse { .. }))), "{second:?}");
    assert!(is_alive(&enclave.unix).await);
}

/// What a module answers is not taken for what it should be.
#[tokio::test]
async fn a_module_that_answers_something_else_is_a_500() {
    let enclave = Enclave::start_on_module(Confused, crate::enclave::patient()).await;
    for path in [ATTESTATION, "/v1/pcrs", "/v1/nsm", "/v1/random", "/readyz", "/nsm_desc", "/rng_seq"] {
        let (answer, _) = get(&enclave.tcp, path, None).await;
        assert_eq!(answer.refusal(), (500, "nsm_failed".to_owned()), "{path}");
    }
    assert!(is_alive(&enclave.tcp).await);
}

/// A module's document is passed on as it is: that it is none is for the verifier to find. What has to read it says so.
#[tokio::test]
async fn a_document_that_is_none_convinces_nobody() {
    let module = Held::default();
    module.release();
    let enclave = Enclave::start_on_module(module, crate::enclave::patient()).await;
    let (answer, _) = get(&enclave.tcp, ATTESTATION, None).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"document"[..]));
    attestation::Document::decode(&answer.body).unwrap_err();
}

#[tokio::test]
async fn a_module_that_hangs_keeps_nothing_else_from_being_answered() {
    let module = Held::default();
    let enclave = Enclave::start_on_module(module.clone(), crate::enclave::patient()).await;
    let waiting = tokio::spawn(attestation(enclave.tcp.clone()));
    until(|| module.asked() == 1).await;
    for path in ["/healthz", "/v1/manifest", "/metrics", "/openapi.json", "/"] {
        assert_eq!(get(&enclave.tcp, path, None).await.0.status, 200, "{path}");
    }
    module.release();
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_of_a_gibibyte_is_refused_without_being_read() {
    let enclave = Enclave::start().await;
    for head in ["POST /verify_doc/ HTTP/1.1", "POST /generate HTTP/1.1"] {
        let mut stream = tls(&enclave, b"http/1.1").await;
        let head = format!("{head}\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n{{");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(is_alive(&enclave.tcp).await);
}

/// Chunks say no length beforehand; what is too much shows when it comes.
#[tokio::test]
async fn a_body_in_chunks_is_read_no_further_than_it_may_be_long() {
    let enclave = Enclave::start().await;
    let mut stream = tls(&enclave, b"http/1.1").await;
    let head = b"POST /verify_doc/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    // The server may close while it is still sent.
    for _ in 0..8 {
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let answer = read_to_end(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 413 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(is_alive(&enclave.tcp).await);
}

#[tokio::test]
async fn a_path_is_looked_up_as_it_is_sent() {
    let enclave = Enclave::start().await;
    for path in [
        "/v1/../v1/manifest",
        "/v1/%6danifest/../manifest",
        "/./v1/manifest",
        "//v1/manifest",
        "/v1//manifest",
        "/v1/manifest%00",
        "/v1/manifest/..",
        "/V1/manifest",
        "/v1/manifest;x",
        "/v1%2fmanifest",
        "/..%2f..%2fetc/passwd",
    ] {
        let (answer, _) = get(&enclave.tcp, path, None).await;
        assert_eq!(answer.refusal(), (404, "no_such_path".to_owned()), "{path}");
    }
}
