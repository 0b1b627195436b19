//! Channels that open, and those that do not because somebody says no.

use std::error::Error as _;
use std::time::Duration;

use channel::io::{ClientConfig, OpenError, connect};
use channel::ssh::Identity;
use channel::{Error, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::pair;

use crate::enclave::{Enclave, soon, ssh_key};

/// What a client that is not let in is told.
async fn refused(enclave: &Enclave, identity: Option<&dyn Identity>) -> Refusal {
    let (near, far) = pair();
    let (client, server) =
        soon(async { tokio::join!(enclave.enter(near, identity), enclave.serve(far)) }).await;
    let Err(OpenError::Denied { peer: Some(peer), source }) = server else { panic!("{server:?}") };
    assert_eq!(peer.key.as_ref(), identity.map(Identity::public_key));
    let Err(OpenError::Channel(Error::Refused { refusal, attested: true })) = client else {
        panic!("{client:?}")
    };
    assert_eq!(source.refusal, refusal);
    refusal
}

#[tokio::test]
async fn an_operator_enters_and_both_sides_talk_until_both_are_done() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["ed25519", "ecdsa"] {
        let key = ssh_key(dir.path(), kind, kind);
        let enclave = Enclave::new(1, Some(&[*key.public_key()]));
        let (near, far) = pair();
        let (client, server) =
            soon(async { tokio::join!(enclave.enter(near, Some(&key)), enclave.serve(far)) }).await;
        let (mut client, (mut server, peer)) = (client.unwrap(), server.unwrap());
        assert_eq!(peer.key.as_ref(), Some(key.public_key()));
        soon(async {
            client.write_all(b"hello").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"hello");
            // The other direction is still open.
            server.write_all(b"and goodbye").await.unwrap();
            server.shutdown().await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"and goodbye");
        })
        .await;
        let error = client.write(b"more").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn the_first_bytes_travel_with_the_signature() {
    let enclave = Enclave::new(1, None);
    let (near, far) = pair();
    let first = vec![7; 60_000];
    let config = ClientConfig { first: &first, ..ClientConfig::default() };
    let client = connect(near, config, |evidence| enclave.appraise(evidence, 1));
    let (client, server) = soon(async { tokio::join!(client, enclave.serve(far)) }).await;
    let (mut server, peer) = server.unwrap();
    assert_eq!(peer.key, None);
    let (mut client, appraisal) = client.unwrap();
    assert!(appraisal.is_simulated());
    soon(async {
        client.write_all(b"second").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [&first[..], b"second"].concat());
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_not_listed_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (listed, other) = (ssh_key(dir.path(), "a", "ed25519"), ssh_key(dir.path(), "b", "ed25519"));
    let enclave = Enclave::new(1, Some(&[*listed.public_key()]));
    assert_eq!(refused(&enclave, Some(&other)).await, Refusal::UnknownKey);
    assert_eq!(refused(&enclave, None).await, Refusal::KeyRequired);
}

#[tokio::test]
async fn a_sealed_or_busy_server_says_which() {
    let mut enclave = Enclave::new(1, None);
    for refusal in [Refusal::Sealed, Refusal::Busy, Refusal::Other(99)] {
        enclave.closed = Some(refusal);
        assert_eq!(refused(&enclave, None).await, refusal);
    }
}

#[tokio::test]
async fn another_image_is_refused_before_anything_is_sent() {
    let enclave = Enclave::new(2, None);
    let (near, far) = pair();
    let (client, server) = soon(async { tokio::join!(enclave.enter(near, None), enclave.serve(far)) }).await;
    let Err(error @ OpenError::Appraisal(_)) = client else { panic!("{client:?}") };
    assert!(error.source().unwrap().to_string().contains("PCR0"));
    assert!(matches!(server, Err(OpenError::Ended)), "{server:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up_on() {
    let enclave = Enclave::new(1, None);
    let (_silent, far) = pair();
    let served = enclave.serve(far).await;
    assert!(matches!(served, Err(OpenError::Deadline { .. })), "{served:?}");
    let (near, _silent) = pair();
    let config = ClientConfig { deadline: Duration::from_secs(3), ..ClientConfig::default() };
    let entered = connect(near, config, |evidence| enclave.appraise(evidence, 1)).await;
    let Err(OpenError::Deadline { limit }) = entered else { panic!("a channel to nobody") };
    assert_eq!(limit, Duration::from_secs(3));
}
