//! The server's side of opening a channel, without IO.

use attestation::Sha256;
use attestation::binding::{Ledger, Statement};

use crate::exporter::Exporter;
use crate::link::{Established, Link};
use crate::message::{Message, NONCE_BYTES, Refusal, VERSION};
use crate::ssh::{PublicKey, verify_sshsig};
use crate::tls::{Handshake, ServerIdentity};
use crate::{Error, NAMESPACE, application_data, client_message};

/// What a document has to answer and to state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Challenge {
    /// The client's challenge: the document's `nonce`.
    pub nonce: [u8; NONCE_BYTES],
    /// The digest that names this connection.
    pub exporter: Sha256,
}

impl Challenge {
    /// The binding statement of the framework's control channel, the document's `user_data`: with the head of its chain and
    /// the state of the enclave's ledger, `None` where it keeps none.
    pub fn statement(&self, control_head: Option<Sha256>, ledger: Option<Ledger>) -> Statement {
        Statement::Channel { exporter: self.exporter, control_head, ledger }
    }

    /// What an application that offers a channel of its own gives to the application API as its data.
    pub fn application_data(&self) -> Vec<u8> {
        application_data(&self.exporter)
    }
}

/// What a [`Server`] waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerStep {
    /// That [`Server::transmit`] is sent and more bytes are received.
    Receive,
    /// An attestation document: [`Server::attest`], or [`Server::refuse`].
    Attest(Challenge),
    /// A decision about the client, who holds this key or shows none: [`Server::accept`] or [`Server::refuse`].
    Authorize(Option<PublicKey>),
    /// Nothing: the channel is open once [`Server::transmit`] is sent, and [`Server::into_established`] gives its keys.
    Open,
}

#[derive(Debug)]
enum State {
    Tls,
    AwaitHello,
    Attest(Challenge),
    AwaitAuthentication,
    Authorize(Option<PublicKey>),
    Open,
    Refused,
}

/// A server that opens a channel.
#[derive(Debug)]
pub struct Server {
    link: Link,
    exporter: Option<Exporter>,
    state: State,
}

impl Server {
    /// A server that waits for a client's first bytes.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(identity: &ServerIdentity) -> Result<Self, Error> {
        let link = Link::new(Handshake::server(identity)?);
        Ok(Server { link, exporter: None, state: State::Tls })
    }

    /// Takes bytes from the client.
    ///
    /// # Errors
    /// When they are too many.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.link.receive(bytes)
    }

    /// Bytes to send to the client, perhaps none. Also after an error: they tell the client.
    pub fn transmit(&mut self) -> Vec<u8> {
        self.link.transmit()
    }

    /// Goes as far as the bytes received allow, and says what is needed next.
    ///
    /// # Errors
    /// When the channel cannot be opened any more.
    pub fn step(&mut self) -> Result<ServerStep, Error> {
        loop {
            match &self.state {
                State::Tls => {
                    let Some(exporter) = self.link.secured()? else { return Ok(ServerStep::Receive) };
                    self.exporter = Some(exporter);
                    self.state = State::AwaitHello;
                }
                State::AwaitHello => match self.link.next_message()? {
                    Some(Message::Hello { version: VERSION, nonce }) => {
                        let exporter = self.exporter.ok_or(Error::Over)?.digest();
                        self.state = State::Attest(Challenge { nonce, exporter });
                    }
                    Some(Message::Hello { version: found, .. }) => {
                        self.say_no(Refusal::Version)?;
                        return Err(Error::Version { found });
                    }
                    Some(other) => return Err(unexpected("HELLO", &other)),
                    None => return Ok(ServerStep::Receive),
                },
                State::Attest(challenge) => return Ok(ServerStep::Attest(*challenge)),
                State::AwaitAuthentication => match self.link.next_message()? {
                    Some(Message::Authenticate(signature)) => {
                        self.state = State::Authorize(self.authenticated(&signature)?);
                    }
                    Some(other) => return Err(unexpected("AUTHENTICATE", &other)),
                    None => return Ok(ServerStep::Receive),
                },
                State::Authorize(key) => return Ok(ServerStep::Authorize(*key)),
                State::Open => return Ok(ServerStep::Open),
                State::Refused => return Err(Error::Over),
            }
        }
    }

    fn authenticated(&mut self, signature: &[u8]) -> Result<Option<PublicKey>, Error> {
        if signature.is_empty() {
            return Ok(None);
        }
        let message = client_message(&self.exporter.ok_or(Error::Over)?);
        match verify_sshsig(signature, NAMESPACE, &message) {
            Ok(key) => Ok(Some(key)),
            Err(error) => {
                self.say_no(Refusal::Signature)?;
                Err(error.into())
            }
        }
    }

    /// Answers [`ServerStep::Attest`] with a document.
    ///
    /// # Errors
    /// [`Error::Over`] at any other time.
    pub fn attest(&mut self, document: Vec<u8>) -> Result<(), Error> {
        let State::Attest(_) = self.state else { return Err(Error::Over) };
        self.link.send(&Message::Evidence(document).encode())?;
        self.state = State::AwaitAuthentication;
        Ok(())
    }

    /// Answers [`ServerStep::Authorize`]: the client is admitted.
    ///
    /// # Errors
    /// [`Error::Over`] at any other time.
    pub fn accept(&mut self) -> Result<(), Error> {
        let State::Authorize(_) = self.state else { return Err(Error::Over) };
        self.link.send(&Message::Accepted.encode())?;
        self.state = State::Open;
        Ok(())
    }

    /// Answers [`ServerStep::Attest`] or [`ServerStep::Authorize`]: the client is told why not, and it is over.
    ///
    /// # Errors
    /// [`Error::Over`] at any other time.
    pub fn refuse(&mut self, refusal: Refusal) -> Result<(), Error> {
        let (State::Attest(_) | State::Authorize(_)) = self.state else { return Err(Error::Over) };
        self.say_no(refusal)
    }

    fn say_no(&mut self, refusal: Refusal) -> Result<(), Error> {
        self.state = State::Refused;
        self.link.send(&Message::Refused(refusal).encode())?;
        self.link.send_close()
    }

    /// The keys of the channel, at [`ServerStep::Open`].
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

fn unexpected(expected: &'static str, found: &Message) -> Error {
    Error::Unexpected { expected, found: found.name() }
}
