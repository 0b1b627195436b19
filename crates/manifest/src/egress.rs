//! What an image may reach: the form that is measured and the one people write.
//!
//! What rules mean is the business of the crate `egress`, which compiles them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
};

use ::egress::{MAX_RULES, Name, Network, Policy, Protocol, Rule, class::special};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use crate::source::{Mistake, mistake};

/// How DNS over TLS is written, and its port (RFC 7858, section 3.1).
const TLS: (&str, u16) = ("tls:", 853);
/// How DNS over HTTPS is written, and its port.
const HTTPS: (&str, u16) = ("https:", 443);
/// The path that RFC 8484 has in its examples, and nearly every resolver.
const DEFAULT_PATH: &str = "/dns-query";
/// Longest path, in bytes.
const MAX_PATH_BYTES: usize = 255;
/// What `dns` may say.
const ALLOWED: &str = "allowed: \"host\", \"tls:ADDRESS\" or \"https:ADDRESS\", with #NAME and for https /PATH behind it; an IPv6 \
                       address in brackets";

// Members stand in ascending order of their names, as the canonical form wants them.

/// The way out of an image. An image without one reaches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// What may be reached, at least one rule, ascending by the written form, unique.
    pub allow: Vec<Rule>,
    /// What may not although a rule above allows it, ascending by the written form, unique.
    pub deny: Vec<Rule>,
    /// Who resolves names.
    pub dns: Dns,
    /// Special ranges that allowed names may resolve into, ascending by the written form, unique.
    pub private: Vec<Network>,
}

/// Who resolves the names that programs in the enclave ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    /// The host, which may lie. Written `host`.
    Host,
    /// A resolver that the enclave asks by DNS over TLS. Written `tls:ADDRESS`, `tls:ADDRESS#NAME`, the address followed
    /// by a port if it is not 853.
    Tls {
        /// Its address and port.
        server: SocketAddr,
        /// The name in its certificate; without one, its certificate is for the address.
        name: Option<Name>,
    },
    /// A resolver that the enclave asks by DNS over HTTPS. Written `https:ADDRESS`, `https:ADDRESS#NAME`, the address
    /// followed by a port if it is not 443, the path at the end if it is not `/dns-query`.
    Https {
        /// Its address and port.
        server: SocketAddr,
        /// The name in its certificate and URL; without one, both have the address.
        name: Option<Name>,
        /// The path of its URL.
        path: String,
    },
}

impl Dns {
    /// The resolver that the enclave asks itself, if it does.
    pub fn server(&self) -> Option<SocketAddr> {
        match self {
            Self::Host => None,
            Self::Tls { server, .. } | Self::Https { server, .. } => Some(*server),
        }
    }
}

impl Egress {
    /// The policy for the programs in the enclave.
    pub fn policy(&self) -> Policy {
        self.compile(&self.allow)
    }

    /// The policy for the host: the same, and where the enclave resolves names itself, the resolver that it asks.
    pub fn host_policy(&self) -> Policy {
        let Some(server) = self.dns.server() else { return self.policy() };
        let port = NonZeroU16::new(server.port()).expect("a resolver's port is not 0");
        let resolver = Rule::of_address(Protocol::Tcp, server.ip(), port);
        self.compile(&[self.allow.as_slice(), &[resolver]].concat())
    }

    fn compile(&self, allow: &[Rule]) -> Policy {
        // One rule less than a policy may have is left for the resolver.
        Policy::compile(allow, &self.deny, &self.private)
            .expect("a checked manifest has fewer rules than a policy may have")
    }

    /// Checks the rules that hold between values.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.allow.is_empty() {
            return Err("egress allows nothing");
        }
        if self.allow.len() + self.deny.len() + self.private.len() >= MAX_RULES {
            return Err("egress has 4096 rules or more");
        }
        if !is_ascending(&self.allow) || !is_ascending(&self.deny) || !is_ascending(&self.private) {
            return Err("the rules of egress are not ascending and unique");
        }
        if !self.private.iter().all(is_special) {
            return Err("a range in egress.private is not within a special range");
        }
        Ok(())
    }
}

fn is_ascending<T: ToString>(list: &[T]) -> bool {
    list.iter().map(T::to_string).is_sorted_by(|a, b| a < b)
}

fn is_special(network: &Network) -> bool {
    special(network.address()).is_some_and(|special| special.range.covers(network))
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, name, (scheme, usual), path) = match self {
            Self::Host => return f.write_str("host"),
            Self::Tls { server, name } => (server, name, TLS, None),
            Self::Https { server, name, path } => (server, name, HTTPS, Some(path)),
        };
        match server.ip() {
            IpAddr::V6(v6) if server.port() == usual => write!(f, "{scheme}[{v6}]")?,
            IpAddr::V4(v4) if server.port() == usual => write!(f, "{scheme}{v4}")?,
            _ => write!(f, "{scheme}{server}")?,
        }
        name.iter().try_for_each(|name| write!(f, "#{name}"))?;
        path.filter(|path| *path != DEFAULT_PATH).map_or(Ok(()), |path| f.write_str(path))
    }
}

impl FromStr for Dns {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Some(rest) = text.strip_prefix(TLS.0) {
            let (server, name) = server_and_name(rest, TLS.1).ok_or(ALLOWED)?;
            return Ok(Self::Tls { server, name });
        }
        let rest = text.strip_prefix(HTTPS.0).ok_or(ALLOWED)?;
        let (place, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, DEFAULT_PATH),
        };
        let (server, name) = server_and_name(place, HTTPS.1).ok_or(ALLOWED)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
        if path.len() > MAX_PATH_BYTES || !path.bytes().all(plain) {
            return Err(ALLOWED);
        }
        Ok(Self::Https { server, name, path: path.to_owned() })
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, either with `#NAME` behind it.
fn server_and_name(text: &str, usual_port: u16) -> Option<(SocketAddr, Option<Name>)> {
    let (server, name) = match text.split_once('#') {
        Some((server, name)) => (server, Some(name.parse().ok()?)),
        None => (text, None),
    };
    let bare = server.strip_prefix('[').and_then(|s| s.strip_suffix(']'));
    let alone = match bare {
        Some(v6) => v6.parse().map(IpAddr::V6).ok(),
        None => server.parse().map(IpAddr::V4).ok(),
    };
    let server: SocketAddr = match alone {
        Some(address) => (address, usual_port).into(),
        None => server.parse().ok()?,
    };
    let plain = matches!(server, SocketAddr::V4(_)) || server.ip().to_canonical().is_ipv6();
    (plain && server.port() != 0).then_some((server, name))
}

impl Serialize for Dns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `[egress]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEgress {
    allow: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    dns: Option<Spanned<String>>,
    #[serde(default)]
    private: Vec<Spanned<String>>,
}

impl RawEgress {
    pub(crate) fn check(this: Option<Self>) -> Result<Option<Egress>, Mistake> {
        let Some(raw) = this else { return Ok(None) };
        let dns = match &raw.dns {
            None => Dns::Host,
            Some(text) => text
                .get_ref()
                .parse()
                .map_err(|e| mistake(text, format!("`egress.dns`: {:?}: {e}", text.get_ref())))?,
        };
        let egress = Egress {
            allow: parse_all("egress.allow", raw.allow.get_ref())?,
            deny: parse_all("egress.deny", &raw.deny)?,
            dns,
            private: parse_all("egress.private", &raw.private)?,
        };
        let public =
            raw.private.iter().find(|text| text.get_ref().parse().is_ok_and(|network| !is_special(&network)));
        if let Some(text) = public {
            let message = "is not within a range of special addresses, so names may resolve there without it";
            return Err(mistake(text, format!("`egress.private`: {:?} {message}", text.get_ref())));
        }
        match egress.check() {
            Ok(()) => Ok(Some(egress)),
            Err(_) => {
                let text = format!(
                    "`egress`: 1 to {} rules, at least one of them in `allow`; leave [egress] out for an image that \
                     reaches nothing",
                    MAX_RULES - 1
                );
                Err(mistake(&raw.allow, text))
            }
        }
    }
}

/// Every text as what it means, in the order and with the spelling that are measured.
fn parse_all<T>(key: &str, texts: &[Spanned<String>]) -> Result<Vec<T>, Mistake>
where
    T: FromStr<Err: fmt::Display> + ToString + PartialEq,
{
    let mut parsed = Vec::with_capacity(texts.len());
    for text in texts {
        let value: T = text
            .get_ref()
            .parse()
            .map_err(|e| mistake(text, format!("`{key}`: {:?}: {e}", text.get_ref())))?;
        parsed.push(value);
    }
    parsed.sort_by_cached_key(T::to_string);
    parsed.dedup();
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn parse(keys: &str) -> Result<Egress, String> {
        let text = format!("name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\n[egress]\n{keys}");
        let manifest = Manifest::parse(&text).map_err(|e| e.to_string())?;
        Ok(manifest.resolve(&crate::ImageConfig::default()).unwrap().egress.unwrap())
    }

    #[test]
    fn rules_are_measured_in_one_order_and_spelling() {
        let egress = parse(
            "allow = [\"B.example:443\", \"*.bücher.example:80-443\", \"b.example.:443\", \"udp:10.0.0.0/8:53\"]\n\
             deny = [\"*:25\"]\nprivate = [\"192.168.0.0/16\", \"fd00::/8\", \"10.0.0.0/8\"]\ndns = \"tls:9.9.9.9:853#dns.example\"",
        )
        .unwrap();
        let json = serde_json::to_string(&egress).unwrap();
        assert_eq!(
            json,
            r#"{"allow":["*.xn--bcher-kva.example:80-443","b.example:443","udp:10.0.0.0/8:53"],"deny":["*:25"],"dns":"tls:9.9.9.9#dns.example","private":["10.0.0.0/8","192.168.0.0/16","[fd00::]/8"]}"#
        );
        assert_eq!(serde_json::from_str::<Egress>(&json).unwrap(), egress);
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        for (keys, at, words) in [
            ("allow = []", "line 5, column 9", "at least one of them in `allow`"),
            ("allow = [\"a.example\"]", "line 5, column 10", "no port"),
            ("allow = [\"a.example:1\", \"10.1.1.1/8:1\"]", "line 5, column 25", "bits beyond its prefix"),
            ("allow = [\"a.example:1\"]\ndeny = [\"*.*:1\"]", "line 6, column 9", "`*` stands alone"),
            (
                "allow = [\"a.example:1\"]\nprivate = [\"1.0.0.0/8\"]",
                "line 6, column 12",
                "not within a range",
            ),
            (
                "allow = [\"a.example:1\"]\nprivate = [\"0.0.0.0/0\"]",
                "line 6, column 12",
                "not within a range",
            ),
            ("allow = [\"a.example:1\"]\ndns = \"8.8.8.8\"", "line 6, column 7", "tls:ADDRESS"),
            ("allow = [\"a.example:1\"]\nports = 1", "line 6, column 1", "unknown field"),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(error.contains(at) && error.contains(words), "{keys}: {error}");
        }
    }

    #[test]
    fn resolvers_have_one_text() {
        for (text, normal) in [
            ("host", "host"),
            ("tls:1.1.1.1", "tls:1.1.1.1"),
            ("tls:1.1.1.1:853#One.example", "tls:1.1.1.1#one.example"),
            ("tls:1.1.1.1:8853", "tls:1.1.1.1:8853"),
            ("tls:[2606:4700::1111]", "tls:[2606:4700::1111]"),
            ("tls:[2606:4700::1111]:53#a", "tls:[2606:4700::1111]:53#a"),
            ("https:9.9.9.9", "https:9.9.9.9"),
            ("https:9.9.9.9:443#Dns.example/dns-query", "https:9.9.9.9#dns.example"),
            ("https:9.9.9.9#dns.example/resolve/me", "https:9.9.9.9#dns.example/resolve/me"),
            ("https:[2606:4700::1111]:8443/", "https:[2606:4700::1111]:8443/"),
        ] {
            assert_eq!(text.parse::<Dns>().unwrap().to_string(), normal);
        }
        for text in [
            "",
            "tls:",
            "tls:dns.example",
            "tls:1.1.1.1:0",
            "tls:::1",
            "tls:[::ffff:1.1.1.1]",
            "tls:1.1.1.1#",
            "https:",
            "https:dns.example/dns-query",
            "https:1.1.1.1/a?b",
            "https:1.1.1.1/a b",
            "https://1.1.1.1/",
        ] {
            assert!(text.parse::<Dns>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_may_reach_the_resolver_and_programs_may_not() {
        let egress = parse("allow = [\"a.example:443\"]\ndns = \"tls:9.9.9.9\"").unwrap();
        let resolver = ::egress::Destination::Address("9.9.9.9".parse().unwrap());
        let ask = |policy: Policy| policy.evaluate(&resolver, 853, Protocol::Tcp).is_allowed();
        assert!(ask(egress.host_policy()));
        assert!(!ask(egress.policy()));
        let egress = parse("allow = [\"a.example:443\"]\ndns = \"https:9.9.9.9:853\"").unwrap();
        assert!(ask(egress.host_policy()));
    }
}
