//! One line of a policy.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Destination, Name, NameError, Network, NetworkError, Protocol};

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Every name; no address. Written `*`.
    AnyName,
    /// This name.
    Name(Name),
    /// Every name one or more labels below this one. Written `*.` and the name.
    Below(Name),
    /// These addresses.
    Network(Network),
}

/// An unbroken range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// One rule: a protocol, whom it is about, and ports. As text `[udp:]WHOM:PORTS`; equal rules have equal texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    protocol: Protocol,
    pattern: Pattern,
    ports: Ports,
}

/// Why a text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// No port.
    #[error("no port: end the rule with `:443`, `:5432-5440` or, for every port, `:*`")]
    NoPort,
    /// A port that is none.
    #[error("ports: 1 to 65535, a range of them from the lower to the higher, or `*`")]
    Ports,
    /// A name that is none.
    #[error("{0}")]
    Name(#[from] NameError),
    /// A protocol that is not written so.
    #[error("before the name stands `udp:`, or nothing for TCP")]
    Protocol,
    /// A URL.
    #[error(
        "a rule is no URL: leave out what stands before the name, and the path, as in `api.example.com:443`"
    )]
    Url,
    /// An IPv6 address without brackets.
    #[error("too many colons: write an IPv6 address in brackets, `[2001:db8::1]:443`")]
    Colons,
    /// A `*` that is not the whole first label.
    #[error("`*` stands alone, or before a name as in `*.example.org`")]
    Wildcard,
    /// Neither an address nor a range.
    #[error("{0}")]
    Network(#[from] NetworkError),
}

impl Rule {
    /// The protocol it is about.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whom it is about.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The ports it is about.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// A rule about one address and port.
    pub fn of_address(protocol: Protocol, address: IpAddr, port: NonZeroU16) -> Self {
        let pattern = Pattern::Network(Network::of(address.to_canonical()));
        Self { protocol, pattern, ports: Ports { first: port, last: port } }
    }

    /// Whether everything that `other` is about is what this rule is about, too.
    pub fn covers(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.ports.first <= other.ports.first
            && other.ports.last <= self.ports.last
            && self.pattern.covers(&other.pattern)
    }

    /// Whether a connection to this port by this protocol is what the rule is about.
    pub(crate) fn is_about(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && self.ports.contains(port)
    }
}

impl Pattern {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Network(own), Self::Network(other)) => own.covers(other),
            (_, Self::Network(_)) => false,
            (Self::AnyName, _) => true,
            (_, Self::AnyName) => false,
            (_, Self::Name(name)) => self.matches_name(name),
            (Self::Below(own), Self::Below(other)) => own == other || other.is_below(own),
            (_, Self::Below(_)) => false,
        }
    }

    /// Whether it is about `destination` by name, or by the address where that is all there is.
    pub(crate) fn matches(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Name(name) | Destination::Resolved(name, _) => self.matches_name(name),
            Destination::Address(address) => self.matches_address(*address),
        }
    }

    pub(crate) fn matches_name(&self, name: &Name) -> bool {
        match self {
            Self::AnyName => true,
            Self::Name(own) => own == name,
            Self::Below(parent) => name.is_below(parent),
            Self::Network(_) => false,
        }
    }

    pub(crate) fn matches_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.contains(address))
    }
}

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { first: NonZeroU16::MIN, last: NonZeroU16::MAX };

    /// The lowest.
    pub fn first(&self) -> u16 {
        self.first.get()
    }

    /// The highest.
    pub fn last(&self) -> u16 {
        self.last.get()
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first.get()..=self.last.get()).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            _ if *self == Self::ALL => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for Ports {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(RuleError::Ports) }
    }
}

fn port(digits: &str) -> Result<NonZeroU16, RuleError> {
    // "+80" and "080" would be second spellings.
    if digits.starts_with(['0', '+']) {
        return Err(RuleError::Ports);
    }
    digits.parse().map_err(|_| RuleError::Ports)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyName => f.write_str("*"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Network(network) => write!(f, "{network}"),
        }
    }
}

impl FromStr for Pattern {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "*" {
            return Ok(Self::AnyName);
        }
        if text.starts_with('[') || text.contains('/') {
            return Ok(Self::Network(text.parse()?));
        }
        if text.contains(':') {
            return Err(RuleError::Colons);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(Network::of(address)));
        }
        match text.strip_prefix("*.") {
            Some(parent) if parent.contains('*') => Err(RuleError::Wildcard),
            Some(parent) => Ok(Self::Below(parent.parse()?)),
            None if text.contains('*') => Err(RuleError::Wildcard),
            None => Ok(Self::Name(text.parse()?)),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Udp {
            f.write_str("udp:")?;
        }
        write!(f, "{}:{}", self.pattern, self.ports)
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.contains("://") {
            return Err(RuleError::Url);
        }
        let (protocol, rest) = match text.split_once(':') {
            Some(("udp", rest)) => (Protocol::Udp, rest),
            Some((other, rest))
                if rest.contains(':')
                    && ["tcp", "udp"].iter().any(|name| other.eq_ignore_ascii_case(name)) =>
            {
                return Err(RuleError::Protocol);
            }
            _ => (Protocol::Tcp, text),
        };
        let (whom, ports) = rest.rsplit_once(':').ok_or(RuleError::NoPort)?;
        if ports.ends_with(']') || ports.contains("]/") {
            return Err(RuleError::NoPort);
        }
        if ports.contains('/') {
            return Err(RuleError::Url);
        }
        let pattern = whom.parse()?;
        Ok(Self { protocol, pattern, ports: ports.parse()? })
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_what_is_narrower() {
        let covers = |own: &str, other: &str| own.parse::<Rule>().unwrap().covers(&other.parse().unwrap());
        for (own, other) in [
            ("a.example:443", "a.example:443"),
            ("a.example:*", "a.example:400-500"),
            ("*:443", "a.example:443"),
            ("*:443", "*.example:443"),
            ("*.example:443", "a.b.example:443"),
            ("*.example:443", "*.b.example:443"),
            ("10.0.0.0/8:*", "10.1.0.0/16:5432"),
            ("udp:*:*", "udp:a.example:443"),
        ] {
            assert!(covers(own, other), "{own} {other}");
            assert!(own == other || !covers(other, own), "{other} {own}");
        }
        for (own, other) in [
            ("a.example:443", "udp:a.example:443"),
            ("*.example:443", "example:443"),
            ("*.example:443", "*:443"),
            ("*:*", "10.0.0.0/8:443"),
            ("0.0.0.0/0:*", "a.example:443"),
            ("a.example:443-444", "a.example:443-445"),
            ("*.a.example:443", "*.b.example:443"),
        ] {
            assert!(!covers(own, other), "{own} {other}");
        }
    }

    /// The auditor's page reads the same.
    #[test]
    fn the_rules_of_the_specification_cover_what_they_should() {
        let rules: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/spec/vectors/policy/rules.json")).unwrap();
        let rule = |text: &serde_json::Value| text.as_str().unwrap().parse::<Rule>();
        let list = |member: &str| rules[member].as_array().unwrap().clone();
        for (member, expected) in [("covered", true), ("not_covered", false)] {
            for pair in list(member) {
                assert_eq!(rule(&pair[0]).unwrap().covers(&rule(&pair[1]).unwrap()), expected, "{pair}");
            }
        }
        for text in list("refused") {
            assert!(rule(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_has_one_text() {
        for (text, normal) in [
            ("api.example.com:443", "api.example.com:443"),
            ("API.Example.com.:443", "api.example.com:443"),
            ("*.bücher.example:443", "*.xn--bcher-kva.example:443"),
            ("*:443", "*:443"),
            ("udp:quic.example.com:443", "udp:quic.example.com:443"),
            ("db.internal:5432-5440", "db.internal:5432-5440"),
            ("db.internal:80-80", "db.internal:80"),
            ("db.internal:1-65535", "db.internal:*"),
            ("10.0.0.0/8:5432", "10.0.0.0/8:5432"),
            ("10.1.2.3:*", "10.1.2.3:*"),
            ("10.1.2.3/32:1", "10.1.2.3:1"),
            ("[2001:DB8::]/32:443", "[2001:db8::]/32:443"),
            ("2001:db8::/32:443", "[2001:db8::]/32:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("udp:[::]/0:53", "udp:[::]/0:53"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), normal, "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_its_reason() {
        for (text, error) in [
            ("", RuleError::NoPort),
            ("example.org", RuleError::NoPort),
            ("[2001:db8::1]", RuleError::NoPort),
            ("[2001:db8::]/32", RuleError::NoPort),
            ("udp:443", RuleError::NoPort),
            ("example.org:", RuleError::Ports),
            ("example.org:0", RuleError::Ports),
            ("example.org:080", RuleError::Ports),
            ("example.org:65536", RuleError::Ports),
            ("example.org:90-80", RuleError::Ports),
            ("example.org:https", RuleError::Ports),
            ("2001:db8::1:443", RuleError::Colons),
            ("tcp:example.org:443", RuleError::Protocol),
            ("UDP:example.org:443", RuleError::Protocol),
            ("example.org:443/path", RuleError::Url),
            ("a.*.org:443", RuleError::Wildcard),
            ("*.*.org:443", RuleError::Wildcard),
            ("*example.org:443", RuleError::Wildcard),
            (":443", RuleError::Name(NameError::Empty)),
            ("10.0.0.300:443", RuleError::Name(NameError::Numeric)),
            (
                "10.0.0.1/8:443",
                RuleError::Network(NetworkError::HostBits { range: "10.0.0.0/8".parse().unwrap() }),
            ),
            ("[::ffff:10.0.0.1]:443", RuleError::Network(NetworkError::Mapped)),
            ("https://example.org:443", RuleError::Url),
        ] {
            assert_eq!(text.parse::<Rule>(), Err(error), "{text:?}");
        }
    }
}
