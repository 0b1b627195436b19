//! Whoever stands between or pretends: nothing of it opens a channel.

use std::io;

use attestation::binding::{ApplicationData, Statement};
use attestation::{Refusal as Why, Refused, Roots, UnixTime, VerifyError, verify};
use channel::io::{ClientConfig, Denied, Gate, OpenError, Peer, accept, connect};
use channel::ssh::{Identity, sign_sshsig};
use channel::{
    Challenge, Client, ClientStep, Error, Message, MessageError, NAMESPACE, RecordError, Refusal, Server,
    ServerStep,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::pair;

use crate::enclave::{Enclave, NotIt, new_root, soon, ssh_key};
use crate::stock::Stock;

/// A server that shows whatever document `F` gives it.
struct Pretender<F>(F);

impl<F: Fn(Challenge) -> Vec<u8> + Sync> Gate for Pretender<F> {
    type Admitted = ();

    async fn attest(&self, challenge: Challenge) -> Result<Vec<u8>, Denied> {
        Ok((self.0)(challenge))
    }

    async fn authorize(&self, _: &Peer) -> Result<(), Denied> {
        Ok(())
    }
}

/// Why a client who wants `enclave` turns away from somebody who shows `document`. Nothing is sent to him.
async fn turned_away(enclave: &Enclave, document: impl Fn(Challenge) -> Vec<u8> + Sync) -> NotIt {
    let (near, far) = pair();
    let gate = Pretender(document);
    let served = accept(far, &enclave.config, &gate);
    let (client, server) = soon(async { tokio::join!(enclave.enter(near, None), served) }).await;
    let Err(OpenError::Appraisal(error)) = client else { panic!("{client:?}") };
    assert!(matches!(server, Err(OpenError::Ended)), "{server:?}");
    *error.downcast().unwrap()
}

fn only(why: NotIt) -> Why {
    let NotIt::Appraise(Refused { mut refusals, .. }) = why else { panic!("{why}") };
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    refusals.remove(0)
}

/// The enclave's answer to a challenge of somebody else's, over a connection of one's own.
fn fetched(enclave: &Enclave, nonce: [u8; 32]) -> Vec<u8> {
    let mut client = Client::new(nonce).unwrap();
    let mut server = Server::new(&enclave.config.identity).unwrap();
    while client.step().unwrap() != ClientStep::Appraise {
        server.receive(&client.transmit()).unwrap();
        if let ServerStep::Attest(challenge) = server.step().unwrap() {
            server.attest(enclave.document(&challenge.nonce, &challenge.statement(None, None))).unwrap();
        }
        client.receive(&server.transmit()).unwrap();
    }
    client.evidence().unwrap().document.clone()
}

/// A man in the middle ends the client's TLS himself, asks the real enclave the client's own challenge, and hands on the
/// genuine document that he gets.
#[tokio::test]
async fn a_relay_of_the_real_enclaves_document_is_refused() {
    let enclave = Enclave::new(1, None);
    let why = turned_away(&enclave, |challenge| fetched(&enclave, challenge.nonce)).await;
    assert!(matches!(only(why), Why::Exporter { .. }));
}

#[tokio::test]
async fn a_recorded_document_is_refused() {
    let enclave = Enclave::new(1, None);
    let why =
        turned_away(&enclave, |challenge| enclave.document(&[0; 32], &challenge.statement(None, None))).await;
    assert!(matches!(only(why), Why::Nonce { .. }));
}

#[tokio::test]
async fn a_document_of_another_kind_is_refused() {
    let enclave = Enclave::new(1, None);
    let why = turned_away(&enclave, |challenge| {
        let server = Statement::Server {
            tls_key: challenge.exporter,
            application_key: None,
            control_head: None,
            ledger: None,
        };
        enclave.document(&challenge.nonce, &server)
    })
    .await;
    assert!(matches!(only(why), Why::BindingKind { found: "server", .. }));
    // An application cannot pass for the framework, even if it names the connection.
    let why = turned_away(&enclave, |challenge| {
        let data = ApplicationData::new(challenge.application_data()).unwrap();
        enclave
            .document(&challenge.nonce, &Statement::Application { application_key: None, data, ledger: None })
    })
    .await;
    assert!(matches!(only(why), Why::BindingKind { found: "application", .. }));
}

#[tokio::test]
async fn an_applications_channel_is_appraised_as_one() {
    let enclave = Enclave::new(1, None);
    let gate = Pretender(|challenge: Challenge| {
        let data = ApplicationData::new(challenge.application_data()).unwrap();
        enclave
            .document(&challenge.nonce, &Statement::Application { application_key: None, data, ledger: None })
    });
    let (near, far) = pair();
    let client = connect(near, ClientConfig::default(), |evidence| {
        let roots = enclave.roots();
        let verified = verify(&evidence.document, &roots, enclave.time(evidence))?;
        let mut policy = attestation::Policy::new(attestation::ReferenceValues::AnyImage);
        policy.nonce = Some(evidence.nonce.to_vec());
        policy.binding = evidence.application_binding();
        Ok::<_, NotIt>(attestation::appraise(&verified, &policy)?)
    });
    let (client, server) = soon(async { tokio::join!(client, accept(far, &enclave.config, &gate)) }).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn an_enclave_in_debug_mode_is_refused() {
    let enclave = Enclave::new(0, None);
    let why = turned_away(&enclave, |challenge| {
        enclave.document(&challenge.nonce, &challenge.statement(None, None))
    })
    .await;
    let NotIt::Appraise(refused) = why else { panic!("{why}") };
    assert!(matches!(refused.refusals[0], Why::Debug), "{refused}");
}

#[tokio::test]
async fn a_simulated_enclave_is_refused_by_who_was_not_told_its_root() {
    let enclave = Enclave::new(1, None);
    for roots in [Roots::aws(), Roots::custom(new_root().1.root_pem().as_bytes()).unwrap()] {
        let (near, far) = pair();
        let client = connect(near, ClientConfig::default(), |evidence| {
            verify(&evidence.document, &roots, enclave.time(evidence))
        });
        let (client, _server) = soon(async { tokio::join!(client, enclave.serve(far)) }).await;
        let Err(OpenError::Appraisal(error)) = client else { panic!("an unknown root is trusted") };
        assert!(error.is::<VerifyError>());
    }
}

#[tokio::test]
async fn garbage_for_a_document_is_refused() {
    let enclave = Enclave::new(1, None);
    for document in [vec![0], vec![0xff; 16 * 1024], b"HTTP/1.1 200 OK\r\n".to_vec()] {
        let why = turned_away(&enclave, |_| document.clone()).await;
        assert!(matches!(why, NotIt::Verify(_)), "{why}");
    }
}

#[tokio::test]
async fn a_signature_from_another_connection_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = ssh_key(dir.path(), "key", "ed25519");
    let enclave = Enclave::new(1, Some(&[*key.public_key()]));
    let stolen = sign_sshsig(&key, NAMESPACE, b"glasshouse-channel-v1 client, of another connection").await;
    let mut client = Client::new([1; 32]).unwrap();
    let mut server = Server::new(&enclave.config.identity).unwrap();
    exchange(&mut client, &mut server);
    client.authenticate(Some(&stolen.unwrap()), b"").unwrap();
    client.step().unwrap();
    server.receive(&client.transmit()).unwrap();
    assert!(matches!(server.step(), Err(Error::Signature(_))));
    client.receive(&server.transmit()).unwrap();
    let told = client.step();
    assert!(matches!(told, Err(Error::Refused { refusal: Refusal::Signature, attested: true })), "{told:?}");
}

/// As far as the client's appraisal, with a document of `[1]`. Returns what the client sent.
fn exchange(client: &mut Client, server: &mut Server) -> Vec<u8> {
    let mut sent = Vec::new();
    while client.step().unwrap() != ClientStep::Appraise {
        let bytes = client.transmit();
        sent.extend_from_slice(&bytes);
        server.receive(&bytes).unwrap();
        if let ServerStep::Attest(_) = server.step().unwrap() {
            server.attest(vec![1]).unwrap();
        }
        client.receive(&server.transmit()).unwrap();
    }
    sent
}

#[tokio::test]
async fn a_recorded_session_cannot_be_replayed() {
    let enclave = Enclave::new(1, None);
    let mut client = Client::new([1; 32]).unwrap();
    let mut server = Server::new(&enclave.config.identity).unwrap();
    let mut recorded = exchange(&mut client, &mut server);
    client.authenticate(None, b"rm -r /").unwrap();
    let last = client.transmit();
    recorded.extend_from_slice(&last);
    server.receive(&last).unwrap();
    assert_eq!(server.step().unwrap(), ServerStep::Authorize(None));

    let (mut near, far) = pair();
    let replay = async {
        near.write_all(&recorded).await.unwrap();
        near.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let (served, ()) = soon(async { tokio::join!(enclave.serve(far), replay) }).await;
    assert!(matches!(served, Err(OpenError::Channel(Error::Tls(_)))), "{served:?}");
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_an_error() {
    let enclave = Enclave::new(1, None);
    let (near, far) = pair();
    drop(near);
    let served = soon(enclave.serve(far)).await;
    assert!(matches!(served, Err(OpenError::Ended)), "{served:?}");
    let (near, far) = pair();
    drop(far);
    let entered = soon(enclave.enter(near, None)).await;
    assert!(matches!(entered, Err(OpenError::Ended | OpenError::Io(_))), "{entered:?}");
}

#[tokio::test]
async fn what_is_not_tls_is_an_error() {
    let enclave = Enclave::new(1, None);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100], &[22, 3, 1, 0xff, 0xff], &[0; 5]] {
        let (mut near, far) = pair();
        near.write_all(bytes).await.unwrap();
        let served = soon(enclave.serve(far)).await;
        assert!(matches!(served, Err(OpenError::Channel(_))), "{served:?}");
    }
}

/// What the server makes of a client that sends `data` inside TLS.
async fn after_tls(enclave: &Enclave, data: &[u8]) -> OpenError {
    let (near, far) = pair();
    let client = async {
        let mut client = Stock::new(near);
        client.send(data).await.unwrap();
        client.receive(1).await
    };
    let (served, _) = soon(async { tokio::join!(enclave.serve(far), client) }).await;
    served.unwrap_err()
}

#[tokio::test]
async fn absurd_lengths_and_strange_messages_are_refused_at_once() {
    let enclave = Enclave::new(1, None);
    for kind in 1..=5_u8 {
        for length in [[0xff; 8], [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0, 1, 0, 0, 0, 0, 0, 0]]
        {
            let error = after_tls(&enclave, &[&[kind][..], &length].concat()).await;
            let OpenError::Channel(Error::Message(MessageError::Length { .. })) = error else {
                panic!("{error:?}")
            };
        }
    }
    let error = after_tls(&enclave, b"\0\0\0\0").await;
    assert!(matches!(error, OpenError::Channel(Error::Message(MessageError::Kind { found: 0 }))));
    let error = after_tls(&enclave, &Message::Accepted.encode()).await;
    assert!(matches!(error, OpenError::Channel(Error::Unexpected { expected: "HELLO", .. })));
}

#[tokio::test]
async fn another_version_is_told_so() {
    let enclave = Enclave::new(1, None);
    let (near, far) = pair();
    let client = async {
        let mut client = Stock::new(near);
        client.send(&Message::Hello { version: 2, nonce: [0; 32] }.encode()).await.unwrap();
        client.receive(6).await.unwrap()
    };
    let (served, told) = soon(async { tokio::join!(enclave.serve(far), client) }).await;
    assert!(matches!(served, Err(OpenError::Channel(Error::Version { found: 2 }))));
    assert_eq!(told, Message::Refused(Refusal::Version).encode());
}

#[tokio::test]
async fn a_client_without_the_protocols_name_is_refused() {
    let enclave = Enclave::new(1, None);
    for names in [vec![], vec![b"h2".to_vec()]] {
        let (near, far) = pair();
        let client = async { Stock::with(near, |config| config.alpn_protocols = names).send(b"").await };
        let (served, _) = soon(async { tokio::join!(enclave.serve(far), client) }).await;
        assert!(matches!(served, Err(OpenError::Channel(Error::Protocol | Error::Tls(_)))), "{served:?}");
    }
}

#[tokio::test]
async fn a_flood_before_the_channel_is_open_is_refused() {
    let enclave = Enclave::new(1, None);
    let (mut near, far) = pair();
    // A handshake message that is announced as larger than it may be, and comes in small records.
    let record = [&[22, 3, 1, 0x40, 0x00, 1, 0xff, 0xff, 0xff][..], &[0; 0x4000 - 4]].concat();
    let flood = async {
        while near.write_all(&record).await.is_ok() {}
        io::Result::Ok(())
    };
    let (served, _) = soon(async { tokio::join!(enclave.serve(far), flood) }).await;
    assert!(matches!(served, Err(OpenError::Channel(Error::Tls(_) | Error::TooMuch))), "{served:?}");
}

/// A whole session with another TLS implementation, and the message that ends it: a key update, which is not spoken.
#[tokio::test]
async fn stock_tls_opens_a_channel_and_may_not_update_keys() {
    let enclave = Enclave::new(1, None);
    let (near, far) = pair();
    let client = async {
        let mut client = Stock::new(near);
        client.send(&Message::Hello { version: 1, nonce: [7; 32] }.encode()).await.unwrap();
        let header = client.receive(5).await.unwrap();
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let document = client.receive(length.try_into().unwrap()).await.unwrap();
        assert!(attestation::Document::decode(&document).is_ok());
        client.send(&Message::Authenticate(Vec::new()).encode()).await.unwrap();
        assert_eq!(client.receive(5).await.unwrap(), Message::Accepted.encode());
        client.send(&[3; 100_000]).await.unwrap();
        let heard = client.receive(100_000).await.unwrap();
        assert!(heard.iter().all(|byte| *byte == 4));
        client.tls.refresh_traffic_keys().unwrap();
        client.send(b"under a new key").await.unwrap();
        client
    };
    let server = async {
        let (mut session, _) = enclave.serve(far).await.unwrap();
        let mut heard = vec![0; 100_000];
        session.read_exact(&mut heard).await.unwrap();
        assert!(heard.iter().all(|byte| *byte == 3));
        session.write_all(&[4; 100_000]).await.unwrap();
        session.flush().await.unwrap();
        session.read_u8().await.unwrap_err()
    };
    let (_client, error) = soon(async { tokio::join!(client, server) }).await;
    let source = error.get_ref().and_then(|source| source.downcast_ref::<RecordError>());
    assert_eq!(source, Some(&RecordError::ContentType { found: 22 }));
}

#[test]
fn fetched_documents_are_genuine() {
    // Otherwise the relay would be refused for another reason than the one its test is about.
    let enclave = Enclave::new(1, None);
    let document = fetched(&enclave, [9; 32]);
    let at = attestation::Document::decode(&document).unwrap().timestamp_ms;
    let verified = verify(&document, &enclave.roots(), UnixTime::from_millis(at)).unwrap();
    assert_eq!(verified.nonce(), Some(&[9; 32][..]));
}
