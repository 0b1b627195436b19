//! One line of the egress record: what became of one connection, or of several that were alike.
//!
//! Made by the forwarder inside the enclave, for allowed and denied connections alike. Two encodings: JSON for the
//! event stream, and one canonical CBOR for whatever hashes it. Spec: `docs/spec/egress.md`, "Record".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use minicbor::{Decoder, Encoder};
use serde::{Deserialize, Serialize};

use crate::{Destination, Name, Protocol, Verdict, wire::Status};

/// Longest text of a rule in a record, in bytes: that of the longest name, wildcard, range of ports and protocol.
pub const MAX_RULE_TEXT_BYTES: usize = 300;

/// Longest CBOR encoding, in bytes.
const MAX_RECORD_BYTES: usize = 1024;

const VERSION: u64 = 1;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The policy inside the enclave denied it, and the host was not asked.
    Denied,
    /// The host was asked, and this was its answer.
    Asked(Status),
    /// The host was asked, and there was no answer or none that could be understood.
    NoAnswer,
}

/// One connection, or several alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Json", try_from = "Json")]
pub struct Record {
    /// When it began: milliseconds since 1970 by the enclave's clock, which the host sets.
    pub time_ms: u64,
    /// How.
    pub protocol: Protocol,
    /// The name, where there was one.
    pub name: Option<Name>,
    /// The address: dialled by the program, or, for a name, told by the host, who may lie: reached, refused or denied.
    pub address: Option<IpAddr>,
    /// The port; 0 where records of several ports became one.
    pub port: u16,
    /// What became of it.
    pub outcome: Outcome,
    /// The rule that decided, as text, where one did.
    pub rule: Option<String>,
    /// Bytes to the peer.
    pub sent: u64,
    /// Bytes from the peer.
    pub received: u64,
    /// From its beginning to its end, in milliseconds. Of several, the longest.
    pub duration_ms: u64,
    /// How many connections this record stands for, at least 1.
    pub count: u64,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Longer than any record.
    #[error("the record has {found} bytes, more than the {MAX_RECORD_BYTES} allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// Not CBOR of this form.
    #[error("the record is not of the form this version reads")]
    Cbor(#[from] minicbor::decode::Error),
    /// Not JSON of this form.
    #[error("the record is not of the form this version reads")]
    Json(#[from] serde_json::Error),
    /// The same record has other bytes.
    #[error("the record is not in its canonical form")]
    NotCanonical,
    /// A value is none.
    #[error("the record's {0} is none")]
    Value(&'static str),
}

impl Record {
    /// The record of a connection that begins now. Whoever carries it fills in what comes of it.
    pub fn begin(
        time_ms: u64,
        destination: &Destination,
        port: u16,
        protocol: Protocol,
        verdict: &Verdict,
    ) -> Self {
        Self {
            time_ms,
            protocol,
            name: destination.name().cloned(),
            address: destination.address().map(|address| address.to_canonical()),
            port,
            outcome: if verdict.is_allowed() { Outcome::NoAnswer } else { Outcome::Denied },
            rule: verdict.rule().map(ToString::to_string),
            sent: 0,
            received: 0,
            duration_ms: 0,
            count: 1,
        }
    }

    /// Adds what another record says to this one, which then stands for both.
    pub fn merge(&mut self, other: &Self) {
        self.time_ms = self.time_ms.min(other.time_ms);
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
        self.duration_ms = self.duration_ms.max(other.duration_ms);
        self.count = self.count.saturating_add(other.count);
    }

    /// The canonical CBOR encoding (RFC 8949 section 4.2.1).
    pub fn to_cbor(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let optional = [self.name.is_some(), self.address.is_some(), self.rule.is_some()];
        let members = optional.into_iter().map(u64::from).fold(9, u64::saturating_add);
        let address = self.address.map(|address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        });
        let written = encoder.map(members).and_then(|e| {
            e.u64(0)?.u64(VERSION)?.u64(1)?.u64(self.time_ms)?;
            e.u64(2)?.u64(self.protocol.number())?;
            if let Some(name) = &self.name {
                e.u64(3)?.str(name.as_str())?;
            }
            if let Some(octets) = &address {
                e.u64(4)?.bytes(octets)?;
            }
            e.u64(5)?.u16(self.port)?.u64(6)?.u64(self.outcome.code())?;
            if let Some(rule) = &self.rule {
                e.u64(7)?.str(rule)?;
            }
            e.u64(8)?.u64(self.sent)?.u64(9)?.u64(self.received)?;
            e.u64(10)?.u64(self.duration_ms)?.u64(11)?.u64(self.count)
        });
        written.expect("writing to a Vec cannot fail");
        bytes
    }

    /// Reads exactly what [`Self::to_cbor`] writes.
    ///
    /// # Errors
    /// [`RecordError`] for everything else.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong { found: bytes.len() });
        }
        let mut decoder = Decoder::new(bytes);
        let members = decoder.map()?.ok_or(RecordError::NotCanonical)?;
        let mut fields = Fields::default();
        for _ in 0..members {
            fields.read(&mut decoder)?;
        }
        let record = fields.into_record()?;
        // Catches what a lenient decoder lets pass: order, repeated keys, long integers, bytes behind the end.
        if record.to_cbor() == bytes { Ok(record) } else { Err(RecordError::NotCanonical) }
    }

    /// The record as one JSON object, without a line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and integers always serialise")
    }

    /// Reads a JSON object of the form that [`Self::to_json`] writes.
    ///
    /// # Errors
    /// Not of that form, or a value that is none.
    pub fn from_json(text: &str) -> Result<Self, RecordError> {
        if text.len() > MAX_RECORD_BYTES.saturating_mul(2) {
            return Err(RecordError::TooLong { found: text.len() });
        }
        Ok(serde_json::from_str(text)?)
    }

    fn checked(self) -> Result<Self, RecordError> {
        if self.count == 0 {
            return Err(RecordError::Value("count"));
        }
        if self.address.is_some_and(|address| address.to_canonical() != address) {
            return Err(RecordError::Value("address"));
        }
        let printable =
            |text: &String| text.len() <= MAX_RULE_TEXT_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
        if self.rule.as_ref().is_some_and(|rule| !printable(rule)) {
            return Err(RecordError::Value("rule"));
        }
        Ok(self)
    }
}

#[derive(Default)]
struct Fields<'a> {
    version: Option<u64>,
    time_ms: Option<u64>,
    protocol: Option<u64>,
    name: Option<&'a str>,
    address: Option<&'a [u8]>,
    port: Option<u16>,
    outcome: Option<u64>,
    rule: Option<&'a str>,
    sent: Option<u64>,
    received: Option<u64>,
    duration_ms: Option<u64>,
    count: Option<u64>,
}

impl<'a> Fields<'a> {
    fn read(&mut self, decoder: &mut Decoder<'a>) -> Result<(), RecordError> {
        match decoder.u64()? {
            0 => self.version = Some(decoder.u64()?),
            1 => self.time_ms = Some(decoder.u64()?),
            2 => self.protocol = Some(decoder.u64()?),
            3 => self.name = Some(decoder.str()?),
            4 => self.address = Some(decoder.bytes()?),
            5 => self.port = Some(decoder.u16()?),
            6 => self.outcome = Some(decoder.u64()?),
            7 => self.rule = Some(decoder.str()?),
            8 => self.sent = Some(decoder.u64()?),
            9 => self.received = Some(decoder.u64()?),
            10 => self.duration_ms = Some(decoder.u64()?),
            11 => self.count = Some(decoder.u64()?),
            _ => return Err(RecordError::Value("key")),
        }
        Ok(())
    }

    fn into_record(self) -> Result<Record, RecordError> {
        if self.version != Some(VERSION) {
            return Err(RecordError::Value("version"));
        }
        let name = self.name.map(Name::from_normal).transpose().map_err(|_| RecordError::Value("name"))?;
        let address =
            match self.address.map(|octets| (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets))) {
                None => None,
                Some((Ok(v4), _)) => Some(IpAddr::from(v4)),
                Some((_, Ok(v6))) => Some(IpAddr::from(v6)),
                Some(_) => return Err(RecordError::Value("address")),
            };
        Record {
            time_ms: self.time_ms.ok_or(RecordError::Value("time"))?,
            protocol: self.protocol.and_then(Protocol::from_number).ok_or(RecordError::Value("protocol"))?,
            name,
            address,
            port: self.port.ok_or(RecordError::Value("port"))?,
            outcome: self.outcome.and_then(Outcome::from_code).ok_or(RecordError::Value("outcome"))?,
            rule: self.rule.map(str::to_owned),
            sent: self.sent.ok_or(RecordError::Value("number of bytes"))?,
            received: self.received.ok_or(RecordError::Value("number of bytes"))?,
            duration_ms: self.duration_ms.ok_or(RecordError::Value("duration"))?,
            count: self.count.ok_or(RecordError::Value("count"))?,
        }
        .checked()
    }
}

impl fmt::Display for Record {
    /// For people: `tcp api.example.com:443 (192.0.2.1): connected, 120 bytes sent, 3400 received, 1.2 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        match (&self.name, self.address) {
            (Some(name), Some(address)) => write!(f, "{name}:{} ({address})", self.port)?,
            (Some(name), None) => write!(f, "{name}:{}", self.port)?,
            (None, Some(address)) => write!(f, "{}", SocketAddr::new(address, self.port))?,
            (None, None) => f.write_str("various")?,
        }
        write!(f, ": {}", self.outcome.word())?;
        if self.outcome == Outcome::Asked(Status::Connected) {
            let (seconds, tenths) = (self.duration_ms / 1000, self.duration_ms / 100 % 10);
            write!(f, ", {} bytes sent, {} received, {seconds}.{tenths} s", self.sent, self.received)?;
        }
        if self.count > 1 { write!(f, ", {} times", self.count) } else { Ok(()) }
    }
}

impl Protocol {
    /// Its number in IP headers.
    fn number(self) -> u64 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl Outcome {
    const CODE_DENIED: u64 = 256;
    const CODE_NO_ANSWER: u64 = 257;

    fn code(self) -> u64 {
        match self {
            Self::Asked(status) => u64::from(status as u8),
            Self::Denied => Self::CODE_DENIED,
            Self::NoAnswer => Self::CODE_NO_ANSWER,
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        match code {
            Self::CODE_DENIED => Some(Self::Denied),
            Self::CODE_NO_ANSWER => Some(Self::NoAnswer),
            code => Status::from_code(u8::try_from(code).ok()?).map(Self::Asked),
        }
    }

    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NoAnswer => "no-answer",
            Self::Asked(status) => status.word(),
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        let asked = (0..=u8::MAX).map_while(Status::from_code).map(Self::Asked);
        [Self::Denied, Self::NoAnswer].into_iter().chain(asked).find(|outcome| outcome.word() == word)
    }
}

/// The members of the JSON object.
#[derive(Serialize, Deserialize)]
struct Json {
    time_ms: u64,
    protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    port: u16,
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    sent: u64,
    received: u64,
    duration_ms: u64,
    count: u64,
}

impl From<Record> for Json {
    fn from(record: Record) -> Self {
        Self {
            time_ms: record.time_ms,
            protocol: record.protocol.to_string(),
            name: record.name.as_ref().map(ToString::to_string),
            address: record.address,
            port: record.port,
            outcome: record.outcome.word().to_owned(),
            rule: record.rule,
            sent: record.sent,
            received: record.received,
            duration_ms: record.duration_ms,
            count: record.count,
        }
    }
}

impl TryFrom<Json> for Record {
    type Error = RecordError;

    fn try_from(json: Json) -> Result<Self, RecordError> {
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.to_string() == json.protocol);
        let name = json.name.as_deref().map(Name::from_normal).transpose();
        Self {
            time_ms: json.time_ms,
            protocol: protocol.ok_or(RecordError::Value("protocol"))?,
            name: name.map_err(|_| RecordError::Value("name"))?,
            address: json.address,
            port: json.port,
            outcome: Outcome::from_word(&json.outcome).ok_or(RecordError::Value("outcome"))?,
            rule: json.rule,
            sent: json.sent,
            received: json.received,
            duration_ms: json.duration_ms,
            count: json.count,
        }
        .checked()
    }
}
