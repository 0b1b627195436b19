//! Questions in, answers out: headers, names, the one question, EDNS (RFC 6891).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{MAX_UDP_BYTES, NEGATIVE_TTL_S, kind};

/// Longest name, in bytes on the wire.
const MAX_NAME_BYTES: usize = 255;

/// Longest label, in bytes.
const MAX_LABEL_BYTES: usize = 63;

pub(super) const HEADER_BYTES: usize = 12;

const CLASS_IN: u16 = 1;

/// More records beside the question than any program adds.
const MAX_ADDITIONAL: u16 = 16;

/// Bits and codes of the second and third pair of bytes.
pub(super) mod flag {
    pub(crate) const RESPONSE: u16 = 0x8000;
    pub(crate) const OPERATION: u16 = 0x7800;
    pub(crate) const TRUNCATED: u16 = 0x0200;
    pub(crate) const RECURSION_DESIRED: u16 = 0x0100;
    pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(crate) const CHECKING_DISABLED: u16 = 0x0010;
    pub(crate) const CODE: u16 = 0x000f;
    pub(crate) const FORMAT_ERROR: u16 = 1;
    pub(crate) const SERVER_FAILURE: u16 = 2;
    pub(crate) const NO_NAME: u16 = 3;
    pub(crate) const NOT_IMPLEMENTED: u16 = 4;
}

/// Why bytes are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// Shorter than what it says is in it.
    #[error("the message ends early")]
    Truncated,
    /// A name that is too long, or leads nowhere.
    #[error("a name in the message is none")]
    Name,
    /// Not an answer to the question that was asked.
    #[error("the message answers another question")]
    OtherQuestion,
    /// An answer that was cut, though nothing limits it.
    #[error("the answer was cut short")]
    Cut,
    /// More records than anybody needs.
    #[error("the message has too many records")]
    TooMany,
    /// The other side could not find out.
    #[error("the answer has code {0}")]
    Code(u16),
    /// A record's content is not of its type's form.
    #[error("a record is not of the form of its type")]
    Record,
}

/// A domain name as it is on the wire, uncompressed, in the letters of whoever wrote it.
#[derive(Clone, Debug)]
pub struct DomainName(Vec<u8>);

impl PartialEq for DomainName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for DomainName {}

impl DomainName {
    /// The name that this text means; `None` if it is too long or has an empty label.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut wire = Vec::new();
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            let length =
                u8::try_from(label.len()).ok().filter(|n| (1..=MAX_LABEL_BYTES).contains(&(*n).into()))?;
            wire.push(length);
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        (wire.len() <= MAX_NAME_BYTES).then_some(Self(wire))
    }

    /// The name as text, lower case and without the last dot; `None` for the root, and for names with bytes that no host
    /// name has, which could be taken for others in text.
    pub fn to_text(&self) -> Option<String> {
        let mut text = String::new();
        for label in self.labels() {
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    return None;
                }
                text.push(char::from(byte.to_ascii_lowercase()));
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// The bytes on the wire.
    pub(super) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let text = self.to_text()?;
        if let Some(digits) = text.strip_suffix(".in-addr.arpa") {
            let mut octets = [0; 4];
            let mut parts = digits.split('.').map(str::parse::<u8>);
            for octet in octets.iter_mut().rev() {
                *octet = parts.next()?.ok()?;
            }
            return parts.next().is_none().then_some(Ipv4Addr::from(octets).into());
        }
        let digits = text.strip_suffix(".ip6.arpa")?;
        let mut bits = 0_u128;
        let mut count = 0_u32;
        for digit in digits.split('.').rev() {
            let [digit] = digit.as_bytes() else { return None };
            bits = (bits << 4) | u128::from(char::from(*digit).to_digit(16)?);
            count = count.checked_add(1).filter(|count| *count <= 32)?;
        }
        (count == 32).then_some(Ipv6Addr::from_bits(bits).into())
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (label, next) = after.split_at_checked(usize::from(*length)).filter(|_| *length > 0)?;
            rest = next;
            Some(label)
        })
    }
}

/// A program's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The program's number for it.
    pub id: u16,
    /// What it is about.
    pub name: DomainName,
    /// The type of record asked for.
    pub kind: u16,
    /// What the program says of its abilities.
    pub edns: Option<Edns>,
    /// The flags that an answer repeats.
    repeated: u16,
}

/// What matters of a program's EDNS record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// How long an answer by UDP it takes, in bytes.
    pub payload_bytes: u16,
}

/// What becomes of bytes that are no question to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Not even an answer.
    Silently,
    /// This answer.
    With(Vec<u8>),
}

impl Query {
    /// Reads a program's question.
    ///
    /// # Errors
    /// [`Rejected`], with what to answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejected> {
        let mut reader = Reader::new(bytes);
        let Ok(header) = Header::read(&mut reader) else { return Err(Rejected::Silently) };
        if header.flags & flag::RESPONSE != 0 {
            return Err(Rejected::Silently);
        }
        let repeated = header.flags & (flag::OPERATION | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
        let reject = |code: u16| {
            let mut bytes = Vec::with_capacity(HEADER_BYTES);
            for word in [header.id, flag::RESPONSE | flag::RECURSION_AVAILABLE | repeated | code, 0, 0, 0, 0]
            {
                bytes.extend(word.to_be_bytes());
            }
            Rejected::With(bytes)
        };
        if header.flags & flag::OPERATION != 0 {
            return Err(reject(flag::NOT_IMPLEMENTED));
        }
        Self::read_rest(&header, &mut reader, repeated).map_err(|_| reject(flag::FORMAT_ERROR))
    }

    fn read_rest(header: &Header, reader: &mut Reader<'_>, repeated: u16) -> Result<Self, FormError> {
        let [questions, answers, authorities, additional] = header.counts;
        if questions != 1 || answers != 0 || authorities != 0 || additional > MAX_ADDITIONAL {
            return Err(FormError::TooMany);
        }
        let (name, kind) = reader.question()?;
        let mut edns = None;
        for _ in 0..additional {
            let record = reader.record()?;
            if record.kind == kind::OPT {
                edns = Some(Edns { payload_bytes: record.class });
            }
        }
        Ok(Self { id: header.id, name, kind, edns, repeated })
    }
}

pub(super) struct Header {
    pub(super) id: u16,
    pub(super) flags: u16,
    /// Of questions, answers, authorities and additional records.
    pub(super) counts: [u16; 4],
}

impl Header {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, FormError> {
        let (id, flags) = (reader.word()?, reader.word()?);
        let counts = [reader.word()?, reader.word()?, reader.word()?, reader.word()?];
        Ok(Self { id, flags, counts })
    }
}

/// A record as it stands in a message.
pub(super) struct RawRecord {
    pub(super) owner: DomainName,
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) ttl_s: u32,
    /// Where its data begins and ends in the message.
    pub(super) data: (usize, usize),
}

/// Reads a message from its beginning on.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], FormError> {
        let end = self.at.checked_add(count).ok_or(FormError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(FormError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn word(&mut self) -> Result<u16, FormError> {
        let bytes = self.take(2)?.try_into().map_err(|_| FormError::Truncated)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn long(&mut self) -> Result<u32, FormError> {
        let bytes = self.take(4)?.try_into().map_err(|_| FormError::Truncated)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Name and type of a question of the Internet's class.
    pub(super) fn question(&mut self) -> Result<(DomainName, u16), FormError> {
        let name = self.name()?;
        let (kind, class) = (self.word()?, self.word()?);
        if class == CLASS_IN { Ok((name, kind)) } else { Err(FormError::OtherQuestion) }
    }

    pub(super) fn record(&mut self) -> Result<RawRecord, FormError> {
        let owner = self.name()?;
        let (kind, class, ttl_s) = (self.word()?, self.word()?, self.long()?);
        let length = self.word()?;
        let start = self.at;
        self.take(length.into())?;
        Ok(RawRecord { owner, kind, class, ttl_s, data: (start, self.at) })
    }

    /// A name, with the parts that it has in common with earlier ones. Each of those must lie before the one that refers to
    /// it, so that there is an end.
    pub(super) fn name(&mut self) -> Result<DomainName, FormError> {
        let mut wire = Vec::new();
        let mut end = None;
        let mut before = self.at;
        loop {
            let [length] = self.take(1)? else { return Err(FormError::Truncated) };
            match length >> 6 {
                0 => {
                    wire.push(*length);
                    wire.extend(self.take(usize::from(*length))?);
                    if wire.len() > MAX_NAME_BYTES {
                        return Err(FormError::Name);
                    }
                    if *length == 0 {
                        break;
                    }
                }
                3 => {
                    let [low] = self.take(1)? else { return Err(FormError::Truncated) };
                    end.get_or_insert(self.at);
                    let target = usize::from(u16::from_be_bytes([length & 0x3f, *low]));
                    if target >= before {
                        return Err(FormError::Name);
                    }
                    before = target;
                    self.at = target;
                }
                _ => return Err(FormError::Name),
            }
        }
        self.at = end.unwrap_or(self.at);
        Ok(DomainName(wire))
    }
}

/// Writes a message; names are not compressed.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A question outside: nothing of the program's but name and type.
    pub(super) fn question(query: &Query, id: u16) -> Vec<u8> {
        let mut writer = Self(Vec::new());
        for word in [id, flag::RECURSION_DESIRED, 1, 0, 0, 1] {
            writer.word(word);
        }
        writer.0.extend(query.name.wire().to_ascii_lowercase());
        writer.word(query.kind);
        writer.word(CLASS_IN);
        writer.options(&[]);
        writer.0
    }

    pub(super) fn answer(query: &Query, code: u16) -> Self {
        let mut writer = Self(Vec::new());
        let flags = flag::RESPONSE | flag::RECURSION_AVAILABLE | query.repeated | code;
        for word in [query.id, flags, 1, 0, 0, 0] {
            writer.word(word);
        }
        writer.0.extend(query.name.wire());
        writer.word(query.kind);
        writer.word(CLASS_IN);
        writer
    }

    pub(super) fn record(&mut self, owner: &DomainName, kind: u16, ttl_s: u32, data: &[u8]) {
        self.0.extend(owner.wire());
        self.word(kind);
        self.word(CLASS_IN);
        self.0.extend(ttl_s.to_be_bytes());
        // What is written was read from a message, whose records are no longer.
        self.word(u16::try_from(data.len()).unwrap_or_default());
        self.0.extend(data);
    }

    /// Ends an answer of `count` records; one without any says for how long there are none. What is longer than `limit` is
    /// cut to the question alone.
    pub(super) fn finish(mut self, query: &Query, count: u16, blocked: bool, limit: usize) -> Vec<u8> {
        let nothing = count == 0 && self.code() != flag::SERVER_FAILURE;
        if nothing {
            self.start_of_authority();
        }
        if query.edns.is_some() {
            self.options(if blocked { &BLOCKED } else { &[] });
        }
        if self.0.len() > limit {
            let mut cut = Self::answer(query, self.code() | flag::TRUNCATED);
            if query.edns.is_some() {
                cut.options(&[]);
            }
            cut.counts(0, 0, query.edns.is_some());
            return cut.0;
        }
        self.counts(count, nothing.into(), query.edns.is_some());
        self.0
    }

    fn code(&self) -> u16 {
        self.0.get(3).map_or(0, |low| u16::from(*low) & flag::CODE)
    }

    fn counts(&mut self, answers: u16, authorities: u16, has_options: bool) {
        let words = [answers, authorities, u16::from(has_options)];
        let bytes = words.into_iter().flat_map(u16::to_be_bytes);
        for (place, byte) in self.0.iter_mut().skip(6).zip(bytes) {
            *place = byte;
        }
    }

    /// The record that says how long there is nothing (RFC 2308), for a zone of the root's name: that of the true zone is
    /// nobody's here to know.
    fn start_of_authority(&mut self) {
        let mut data = vec![0, 0];
        for value in [1, 3600, 600, 86400, NEGATIVE_TTL_S] {
            data.extend(value.to_be_bytes());
        }
        self.record(&DomainName(vec![0]), kind::SOA, NEGATIVE_TTL_S, &data);
    }

    fn options(&mut self, data: &[u8]) {
        self.0.push(0);
        self.word(kind::OPT);
        self.word(MAX_UDP_BYTES);
        self.0.extend([0; 4]);
        self.word(u16::try_from(data.len()).unwrap_or_default());
        self.0.extend(data);
    }

    fn word(&mut self, word: u16) {
        self.0.extend(word.to_be_bytes());
    }
}

/// The extended error "blocked" (RFC 8914, section 4.16), as an option.
const BLOCKED: [u8; 6] = [0, 15, 0, 2, 0, 15];
