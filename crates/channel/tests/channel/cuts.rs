//! Streams that end, break or change in the middle of a handshake.

use std::convert::Infallible;

use channel::io::{ClientConfig, Denied, Gate, OpenError, Peer, ServerConfig, accept, connect};
use channel::{Challenge, Client, ClientStep, Server, ServerStep};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::fault::{Ending, FaultStream, Faults};
use transport::pair;

use crate::enclave::soon;

struct Anybody;

impl Gate for Anybody {
    type Admitted = ();

    async fn attest(&self, _: Challenge) -> Result<Vec<u8>, Denied> {
        Ok(vec![7; 100])
    }

    async fn authorize(&self, _: &Peer) -> Result<(), Denied> {
        Ok(())
    }
}

fn faults(ending: Ending) -> Faults {
    Faults { ending, ..Faults::default() }
}

/// Whether client and server open, when the client's stream ends as `ending` says.
async fn opened(config: &ServerConfig, ending: Ending) -> (bool, bool) {
    let (near, far) = pair();
    let near = FaultStream::new(near, &faults(ending));
    let client = connect(near, ClientConfig::default(), |_| Ok::<_, Infallible>(()));
    let (client, server) = soon(async { tokio::join!(client, accept(far, config, &Anybody)) }).await;
    for error in [client.as_ref().err(), server.as_ref().err()].into_iter().flatten() {
        assert!(!matches!(error, OpenError::Deadline { .. }), "{error}");
    }
    (client.is_ok(), server.is_ok())
}

/// Bytes of the last message, ACCEPTED: header, message, content type and tag.
const ACCEPTED_BYTES: u64 = 5 + 5 + 1 + 16;

#[tokio::test]
async fn a_handshake_cut_after_any_byte_fails() {
    let config = ServerConfig::generate().unwrap();
    let mut whole = 0;
    while whole < 20_000 {
        // Signatures differ in length by some bytes, so the last byte is found and not computed.
        if opened(&config, Ending::DeathAfter(whole)).await == (true, true) {
            break;
        }
        whole += if whole < 1000 { 50 } else { 1 };
    }
    assert!((1000..5000).contains(&whole), "{whole} bytes");
    for count in 0..whole - 20 {
        for ending in [Ending::DeathAfter(count), Ending::ResetAfter(count)] {
            // Alternately, or it takes twice as long.
            if (count % 2 == 0) == (ending == Ending::DeathAfter(count)) {
                let (client, server) = opened(&config, ending).await;
                assert!(!client, "opened after {count} of {whole} bytes");
                // What the server's last message meets on its way, the server cannot know.
                assert!(
                    !server || count + ACCEPTED_BYTES + 20 >= whole,
                    "opened after {count} of {whole} bytes"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn single_bytes_and_stalls_change_nothing() {
    let config = ServerConfig::generate().unwrap();
    for seed in 0..5 {
        let faults = Faults {
            seed,
            partial_write_percent: 90,
            one_byte_read_percent: 90,
            stall_percent: 10,
            max_stall: std::time::Duration::from_millis(1),
            ending: Ending::Natural,
        };
        let (near, far) = pair();
        let (near, far) = (FaultStream::new(near, &faults), FaultStream::new(far, &faults));
        let client = connect(near, ClientConfig::default(), |_| Ok::<_, Infallible>(()));
        let (client, server) = tokio::join!(client, accept(far, &config, &Anybody));
        let ((mut client, ()), (mut server, _, ())) = (client.unwrap(), server.unwrap());
        let sent: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let send = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut echo = Vec::new();
            client.read_to_end(&mut echo).await.unwrap();
            echo
        };
        let echo = async {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            server.write_all(&heard).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (echo, ()) = tokio::join!(send, echo);
        assert!(echo == sent, "seed {seed}");
    }
}

/// Runs both cores against each other and changes the byte at `position` of what the client sends. Whether the server opens.
fn opened_with_a_change(config: &ServerConfig, position: usize) -> (bool, usize) {
    let mut client = Client::new([1; 32]).unwrap();
    let mut server = Server::new(&config.identity).unwrap();
    let mut sent = 0;
    loop {
        match client.step() {
            Ok(ClientStep::Appraise) => client.authenticate(None, b"").unwrap(),
            Ok(ClientStep::Open) => return (true, sent),
            Ok(ClientStep::Receive) => {}
            Err(_) => return (false, sent),
        }
        let mut bytes = client.transmit();
        if let Some(byte) = position.checked_sub(sent).and_then(|at| bytes.get_mut(at)) {
            *byte ^= 0x40;
        }
        sent += bytes.len();
        let stuck = bytes.is_empty();
        server.receive(&bytes).unwrap();
        match server.step() {
            Ok(ServerStep::Attest(_)) => server.attest(vec![1]).unwrap(),
            Ok(ServerStep::Authorize(_)) => server.accept().unwrap(),
            Ok(_) => {}
            Err(_) => return (false, sent),
        }
        let answer = server.transmit();
        if stuck && answer.is_empty() {
            return (false, sent);
        }
        client.receive(&answer).unwrap();
    }
}

#[test]
fn a_handshake_with_any_byte_changed_fails() {
    let config = ServerConfig::generate().unwrap();
    let (opened, total) = opened_with_a_change(&config, usize::MAX);
    assert!(opened && total > 300);
    let survived: Vec<_> = (0..total).filter(|position| opened_with_a_change(&config, *position).0).collect();
    assert!(survived.is_empty(), "{survived:?}");
}
