//! The client's side of opening a channel, without IO.

use attestation::{BindingPolicy, Sha256};

use crate::exporter::Exporter;
use crate::link::{Established, Link};
use crate::message::{Message, NONCE_BYTES, VERSION};
use crate::tls::Handshake;
use crate::{Error, application_data, client_message};

/// What the server showed, and what it has to be about. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// The attestation document.
    pub document: Vec<u8>,
    /// The challenge that the document has to answer.
    pub nonce: [u8; NONCE_BYTES],
    /// The digest that names this connection.
    pub exporter: Sha256,
}

impl Evidence {
    /// What the document of an enclave's control channel has to state.
    pub fn binding(&self) -> BindingPolicy {
        BindingPolicy::Channel { exporter: self.exporter }
    }

    /// What the document of an application that offers a channel of its own has to state.
    pub fn application_binding(&self) -> BindingPolicy {
        BindingPolicy::Application { data: Some(application_data(&self.exporter)) }
    }
}

/// What a [`Client`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStep {
    /// That [`Client::transmit`] is sent and more bytes are received.
    Receive,
    /// That [`Client::evidence`] is appraised and then [`Client::authenticate`] is called, or that everything is dropped.
    Appraise,
    /// Nothing: the channel is open, and [`Client::into_established`] gives its keys.
    Open,
}

#[derive(Debug)]
enum State {
    Tls,
    AwaitEvidence,
    Appraise(Evidence),
    AwaitVerdict,
    Open,
}

/// A client that opens a channel.
#[derive(Debug)]
pub struct Client {
    link: Link,
    nonce: [u8; NONCE_BYTES],
    exporter: Option<Exporter>,
    state: State,
}

impl Client {
    /// A client that challenges the server with `nonce`, which must never have been used before.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(nonce: [u8; NONCE_BYTES]) -> Result<Self, Error> {
        Ok(Client { link: Link::new(Handshake::client()?), nonce, exporter: None, state: State::Tls })
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// When they are too many.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.link.receive(bytes)
    }

    /// Bytes to send to the server, perhaps none. Also after an error: they tell the server.
    pub fn transmit(&mut self) -> Vec<u8> {
        self.link.transmit()
    }

    /// Goes as far as the bytes received allow, and says what is needed next.
    ///
    /// # Errors
    /// When the channel cannot be opened any more.
    pub fn step(&mut self) -> Result<ClientStep, Error> {
        loop {
            match &self.state {
                State::Tls => {
                    let Some(exporter) = self.link.secured()? else { return Ok(ClientStep::Receive) };
                    self.exporter = Some(exporter);
                    self.link.send(&Message::Hello { version: VERSION, nonce: self.nonce }.encode())?;
                    self.state = State::AwaitEvidence;
                }
                State::AwaitEvidence => match (self.link.next_message()?, self.exporter) {
                    (Some(Message::Evidence(document)), Some(exporter)) => {
                        let evidence = Evidence { document, nonce: self.nonce, exporter: exporter.digest() };
                        self.state = State::Appraise(evidence);
                    }
                    (Some(other), _) => return Err(unexpected("EVIDENCE", &other, false)),
                    (None, _) => return Ok(ClientStep::Receive),
                },
                State::Appraise(_) => return Ok(ClientStep::Appraise),
                State::AwaitVerdict => match self.link.next_message()? {
                    Some(Message::Accepted) => self.state = State::Open,
                    Some(other) => return Err(unexpected("ACCEPTED", &other, true)),
                    None => return Ok(ClientStep::Receive),
                },
                State::Open => return Ok(ClientStep::Open),
            }
        }
    }

    /// What is to be appraised, at [`ClientStep::Appraise`].
    pub fn evidence(&self) -> Option<&Evidence> {
        match &self.state {
            State::Appraise(evidence) => Some(evidence),
            _ => None,
        }
    }

    /// What a key has to sign in namespace [`NAMESPACE`](crate::NAMESPACE), from [`ClientStep::Appraise`] on.
    pub fn message(&self) -> Option<Vec<u8>> {
        self.exporter.map(|exporter| client_message(&exporter))
    }

    /// Declares the evidence good and goes on: with a `signature` (SSHSIG, not armoured) over [`Client::message`] or
    /// nameless, and with the `first` bytes of the session, which save a round trip. The server reads these only if it
    /// admits the client.
    ///
    /// # Errors
    /// [`Error::Over`] at any other time than at [`ClientStep::Appraise`].
    pub fn authenticate(&mut self, signature: Option<&[u8]>, first: &[u8]) -> Result<(), Error> {
        let State::Appraise(_) = self.state else { return Err(Error::Over) };
        let mut data = Message::Authenticate(signature.unwrap_or_default().to_vec()).encode();
        data.extend_from_slice(first);
        self.link.send(&data)?;
        self.state = State::AwaitVerdict;
        Ok(())
    }

    /// The keys of the channel, at [`ClientStep::Open`].
    ///
    /// # Errors
    /// [`Error::Over`] at any other time.
    pub fn into_established(self) -> Result<Established, Error> {
        match self.state {
            State::Open => self.link.into_established(),
            _ => Err(Error::Over),
        }
    }
}

fn unexpected(expected: &'static str, found: &Message, attested: bool) -> Error {
    match found {
        Message::Refused(refusal) => Error::Refused { refusal: *refusal, attested },
        other => Error::Unexpected { expected, found: other.name() },
    }
}
