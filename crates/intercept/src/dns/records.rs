//! Answers from outside, read and written anew.

use super::{
    kind,
    message::{DomainName, FormError, Header, Query, RawRecord, Reader, flag},
};

/// The most records of an answer that are passed on.
const MAX_RECORDS: usize = 128;

/// The longest that a program may keep what came from outside, in seconds.
const MAX_TTL_S: u32 = 3600;

/// The Internet's class.
const CLASS_IN: u16 = 1;

/// Parameters of HTTPS and SVCB records that carry addresses (RFC 9460, section 14.3.2).
const ADDRESS_HINTS: [u16; 2] = [4, 6];

/// A record that is passed on.
pub(super) struct Kept {
    pub(super) owner: DomainName,
    pub(super) kind: u16,
    pub(super) ttl_s: u32,
    pub(super) data: Vec<u8>,
}

/// Code and records of a reply to `query`, as far as they are an answer to it: the chain of other names, and what the last
/// of them has of the type asked for.
pub(super) fn read_reply(query: &Query, id: u16, reply: &[u8]) -> Result<(u16, Vec<Kept>), FormError> {
    let mut reader = Reader::new(reply);
    let header = Header::read(&mut reader)?;
    let [questions, answers, ..] = header.counts;
    if header.id != id || header.flags & flag::RESPONSE == 0 || questions != 1 {
        return Err(FormError::OtherQuestion);
    }
    let (name, kind) = reader.question()?;
    if name != query.name || kind != query.kind {
        return Err(FormError::OtherQuestion);
    }
    if header.flags & flag::TRUNCATED != 0 {
        return Err(FormError::Cut);
    }
    match header.flags & flag::CODE {
        0 => {}
        flag::NO_NAME => return Ok((flag::NO_NAME, Vec::new())),
        code => return Err(FormError::Code(code)),
    }
    if usize::from(answers) > MAX_RECORDS {
        return Err(FormError::TooMany);
    }
    let mut kept = Vec::new();
    let mut current = query.name.clone();
    for _ in 0..answers {
        let record = reader.record()?;
        if record.class != CLASS_IN || record.owner != current {
            continue;
        }
        if record.kind != query.kind && record.kind != kind::CNAME {
            continue;
        }
        let data = data(reply, &record)?;
        if record.kind == kind::CNAME && query.kind != kind::CNAME {
            let (start, _) = record.data;
            current = Reader { bytes: reply, at: start }.name()?;
        }
        kept.push(Kept { owner: record.owner, kind: record.kind, ttl_s: record.ttl_s.min(MAX_TTL_S), data });
    }
    Ok((0, kept))
}

/// A record's data with its names written out, as they may refer to parts of the reply that are not passed on.
fn data(reply: &[u8], record: &RawRecord) -> Result<Vec<u8>, FormError> {
    let (start, end) = record.data;
    let mut reader = Reader { bytes: reply.get(..end).ok_or(FormError::Truncated)?, at: start };
    let before_name = match record.kind {
        kind::CNAME => 0,
        kind::MX | kind::SVCB | kind::HTTPS => 2,
        kind::SRV => 6,
        _ => return Ok(reader.take(end.saturating_sub(start))?.to_vec()),
    };
    let mut data = reader.take(before_name)?.to_vec();
    data.extend(reader.name()?.wire());
    if matches!(record.kind, kind::SVCB | kind::HTTPS) {
        parameters_without_addresses(&mut reader, end, &mut data)?;
    }
    if reader.at == end { Ok(data) } else { Err(FormError::Record) }
}

fn parameters_without_addresses(
    reader: &mut Reader<'_>,
    end: usize,
    data: &mut Vec<u8>,
) -> Result<(), FormError> {
    while reader.at < end {
        let (key, length) = (reader.word()?, reader.word()?);
        let value = reader.take(length.into())?;
        if !ADDRESS_HINTS.contains(&key) {
            data.extend(key.to_be_bytes());
            data.extend(length.to_be_bytes());
            data.extend(value);
        }
    }
    Ok(())
}
