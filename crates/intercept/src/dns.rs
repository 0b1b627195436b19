//! DNS messages (RFC 1035) as far as a resolver needs them that answers for one policy.
//!
//! Addresses are never asked for outside: a name that is allowed has an address of [`names`](crate::names), and any other
//! has none. What else is asked about an allowed name is asked outside in a question of our own ([`Query::upstream`]), and
//! the answer, which whoever answers may have made up, is read and written anew ([`Query::relay`]): records that were not
//! asked for are left out, and so are the addresses that HTTPS and SVCB records carry.
//!
//! Of a program's question nothing but name and type goes outside; its EDNS options stay here.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod message;
mod records;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use message::{DomainName, Edns, FormError, Query, Rejected};
use message::{Writer, flag};
use records::Kept;

/// The longest answer by UDP, in bytes; longer ones are asked for again by TCP (what DNS Flag Day 2020 recommends).
pub const MAX_UDP_BYTES: u16 = 1232;

/// The longest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 65_535;

/// How long programs may keep the address of a name, in seconds. It does not change, so this only bounds what a program
/// does with a name that it was never told about again.
const ADDRESS_TTL_S: u32 = 60;

/// How long programs may keep that there is nothing, in seconds.
const NEGATIVE_TTL_S: u32 = 30;

/// Types of records.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// Another name for a name.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// Where mail goes.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Where a service is (RFC 2782).
    pub const SRV: u16 = 33;
    /// Options (RFC 6891).
    pub const OPT: u16 = 41;
    /// Certificates to be expected (RFC 6698).
    pub const TLSA: u16 = 52;
    /// How a service is reached (RFC 9460).
    pub const SVCB: u16 = 64;
    /// How a web server is reached (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// Everything there is.
    pub const ANY: u16 = 255;
    /// Who may issue certificates (RFC 8659).
    pub const CAA: u16 = 257;
}

/// What is answered without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name has these addresses; those of the type asked for are told.
    Addresses(Vec<IpAddr>),
    /// The address that was asked about belongs to this name.
    Name(DomainName),
    /// The name is there and has nothing of this type.
    Nothing,
    /// There is no such name.
    NoName,
    /// There is no such name as far as the policy is concerned.
    Forbidden,
    /// It could not be found out.
    Failed,
}

impl Query {
    /// What has to be found out to answer.
    pub fn about(&self) -> About {
        match self.kind {
            kind::A | kind::AAAA | kind::ANY => About::Addresses,
            kind::PTR => self.name.address().map_or(About::Nothing, About::NameOf),
            kind::CNAME
            | kind::MX
            | kind::TXT
            | kind::SRV
            | kind::TLSA
            | kind::SVCB
            | kind::HTTPS
            | kind::CAA => About::Records,
            _ => About::Nothing,
        }
    }

    /// The answer as a message, for a program that takes at most [`Self::udp_limit`] bytes if `by_udp`.
    pub fn answer(&self, answer: &Answer, by_udp: bool) -> Vec<u8> {
        let (code, blocked) = match answer {
            Answer::NoName => (flag::NO_NAME, false),
            Answer::Forbidden => (flag::NO_NAME, true),
            Answer::Failed => (flag::SERVER_FAILURE, false),
            _ => (0, false),
        };
        let mut writer = Writer::answer(self, code);
        let mut count = 0_u16;
        match answer {
            Answer::Addresses(addresses) => {
                for address in addresses {
                    let (kind, octets) = match address {
                        IpAddr::V4(v4) => (kind::A, v4.octets().to_vec()),
                        IpAddr::V6(v6) => (kind::AAAA, v6.octets().to_vec()),
                    };
                    if self.kind == kind || self.kind == kind::ANY {
                        writer.record(&self.name, kind, ADDRESS_TTL_S, &octets);
                        count = count.saturating_add(1);
                    }
                }
            }
            Answer::Name(name) => {
                writer.record(&self.name, kind::PTR, ADDRESS_TTL_S, name.wire());
                count = 1;
            }
            _ => {}
        }
        writer.finish(self, count, blocked, self.limit(by_udp))
    }

    /// The question to be asked outside in the stead of this one.
    pub fn upstream(&self, id: u16) -> Vec<u8> {
        Writer::question(self, id)
    }

    /// The answer to give when `reply` is what came back for [`Self::upstream`] of the same `id`.
    ///
    /// # Errors
    /// [`FormError`] when it is not an answer to that question, or none at all. [`Answer::Failed`] is to be given then.
    pub fn relay(&self, id: u16, reply: &[u8], by_udp: bool) -> Result<Vec<u8>, FormError> {
        let (code, kept) = records::read_reply(self, id, reply)?;
        let mut writer = Writer::answer(self, code);
        for Kept { owner, kind, ttl_s, data } in &kept {
            writer.record(owner, *kind, *ttl_s, data);
        }
        let count = u16::try_from(kept.len()).map_err(|_| FormError::TooMany)?;
        Ok(writer.finish(self, count, false, self.limit(by_udp)))
    }

    /// How long an answer by UDP may be.
    pub fn udp_limit(&self) -> usize {
        let offered = self.edns.map_or(512, |edns| edns.payload_bytes.clamp(512, MAX_UDP_BYTES));
        offered.into()
    }

    fn limit(&self, by_udp: bool) -> usize {
        if by_udp { self.udp_limit() } else { MAX_MESSAGE_BYTES }
    }
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The addresses of the name.
    Addresses,
    /// The name of this address.
    NameOf(IpAddr),
    /// Records that have to be asked for outside.
    Records,
    /// Something that nobody gets.
    Nothing,
}

/// The loopback's addresses, which every `localhost` has (RFC 6761, section 6.3).
pub fn localhost() -> Answer {
    Answer::Addresses(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

#[cfg(test)]
mod tests;
