//! From the first byte to the open channel, on either side: TLS handshake, then messages in records. Without IO.

use crate::Error;
use crate::exporter::Exporter;
use crate::message::Message;
use crate::record::{self, Content, OVERHEAD_BYTES, Opener, Sealer};
use crate::tls::Handshake;

/// Most bytes received before the channel is open. A handshake takes about 2 KiB, a document 5 KiB; what the client sends
/// along with its authentication is limited by what is left.
pub const MAX_HANDSHAKE_BYTES: usize = 128 * 1024;

/// An open channel's keys, and what was received beyond its opening.
#[derive(Debug)]
pub struct Established {
    /// Seals what is sent.
    pub sealer: Sealer,
    /// Opens what is received.
    pub opener: Opener,
    /// Data already received and opened.
    pub plaintext: Vec<u8>,
    /// Records already received and not opened, the last of them perhaps not whole.
    pub records: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    Tls(Box<Handshake>),
    Messages {
        sealer: Box<Sealer>,
        opener: Box<Opener>,
        exporter: Exporter,
    },
    /// Only while one phase makes way for the next, and after it failed to.
    Over,
}

#[derive(Debug)]
pub(crate) struct Link {
    phase: Phase,
    received: usize,
    /// Not processed yet.
    input: Vec<u8>,
    /// Opened, not yet a whole message.
    plain: Vec<u8>,
    output: Vec<u8>,
}

impl Link {
    pub(crate) fn new(handshake: Handshake) -> Self {
        let mut link = Link {
            phase: Phase::Tls(Box::new(handshake)),
            received: 0,
            input: Vec::new(),
            plain: Vec::new(),
            output: Vec::new(),
        };
        link.flush_handshake();
        link
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.received = self.received.saturating_add(bytes.len());
        if self.received > MAX_HANDSHAKE_BYTES {
            return Err(Error::TooMuch);
        }
        self.input.extend_from_slice(bytes);
        Ok(())
    }

    /// What is to be sent now.
    pub(crate) fn transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The connection's exporter value, once the TLS handshake is done with what was received.
    pub(crate) fn secured(&mut self) -> Result<Option<Exporter>, Error> {
        while let Phase::Tls(handshake) = &mut self.phase {
            let Some(length) = record::handshake_record_length(&self.input)? else { return Ok(None) };
            let outcome = handshake.receive(&self.input[..length]);
            self.input.drain(..length);
            self.flush_handshake();
            outcome?;
            self.leave_handshake()?;
        }
        match &self.phase {
            Phase::Messages { exporter, .. } => Ok(Some(*exporter)),
            _ => Err(Error::Over),
        }
    }

    fn flush_handshake(&mut self) {
        if let Phase::Tls(handshake) = &mut self.phase {
            handshake.transmit(&mut self.output);
        }
    }

    fn leave_handshake(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Tls(handshake) if handshake.is_done() => {
                let (sealer, opener, exporter) = handshake.finish()?;
                let (sealer, opener) = (Box::new(sealer), Box::new(opener));
                self.phase = Phase::Messages { sealer, opener, exporter };
            }
            other => self.phase = other,
        }
        Ok(())
    }

    /// The next message, once it is whole. Opens no more records than it takes.
    pub(crate) fn next_message(&mut self) -> Result<Option<Message>, Error> {
        let Phase::Messages { opener, .. } = &mut self.phase else { return Err(Error::Over) };
        loop {
            if let Some((message, length)) = Message::decode(&self.plain)? {
                self.plain.drain(..length);
                return Ok(Some(message));
            }
            let Some(length) = record::record_length(&self.input)? else { return Ok(None) };
            match opener.open(&mut self.input[..length])? {
                Content::Data(range) => self.plain.extend_from_slice(&self.input[range]),
                Content::Closed => return Err(Error::Closed),
            }
            self.input.drain(..length);
        }
    }

    /// Sends `data`, in as few records as it takes.
    pub(crate) fn send(&mut self, data: &[u8]) -> Result<(), Error> {
        let Phase::Messages { sealer, .. } = &mut self.phase else { return Err(Error::Over) };
        for plaintext in data.chunks(record::MAX_PLAINTEXT_BYTES) {
            let start = self.output.len();
            self.output.resize(start + plaintext.len() + OVERHEAD_BYTES, 0);
            sealer.seal(plaintext, &mut self.output[start..])?;
        }
        Ok(())
    }

    /// Says that nothing more is sent.
    pub(crate) fn send_close(&mut self) -> Result<(), Error> {
        let Phase::Messages { sealer, .. } = &mut self.phase else { return Err(Error::Over) };
        let mut close = [0; 64];
        let length = sealer.seal_close(&mut close)?;
        self.output.extend_from_slice(&close[..length]);
        Ok(())
    }

    pub(crate) fn into_established(mut self) -> Result<Established, Error> {
        // A session lives long and mostly needs neither.
        self.plain.shrink_to_fit();
        self.input.shrink_to_fit();
        match self.phase {
            Phase::Messages { sealer, opener, .. } => Ok(Established {
                sealer: *sealer,
                opener: *opener,
                plaintext: self.plain,
                records: self.input,
            }),
            _ => Err(Error::Over),
        }
    }
}
