//! One route, as it is configured and as it is used.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use relay::{Client, Dial, LinkOptions, Target, Verdict};
use transport::Addr;

use crate::Route;
use crate::client_hello::{self, Hello};
use crate::ingress::{Error, source};
use crate::proxy_header::{self, Ends, Parsed};

/// What to do with PROXY protocol v2 headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Nothing.
    #[default]
    Off,
    /// Each connection to the target begins with one, which names the client.
    Send,
    /// Each client begins with one, which is taken off. Only for clients that are proxies themselves.
    Accept,
    /// Each client begins with one, which goes on to the target as it is. Who sends none is refused, so the target can rely
    /// on there being one, whatever it says.
    Pass,
    /// Each client begins with one, which is taken off, and the connection to the target comes from the address that it names, or
    /// from [`NOBODY`](crate::ingress::NOBODY). Only for targets on 127.0.0.1, where clients of IPv6 come to \[::1\].
    Source,
}

impl ProxyHeader {
    /// Whether clients have to begin with one.
    pub(super) fn is_expected(self) -> bool {
        matches!(self, Self::Accept | Self::Pass | Self::Source)
    }

    /// Whether it is taken off what clients send.
    fn is_taken_off(self) -> bool {
        matches!(self, Self::Accept | Self::Source)
    }
}

/// One listener and where its clients go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// In logs and metrics.
    pub name: String,
    /// Where clients connect.
    pub listen: Addr,
    /// Where they go that no entry of `named` is for. None: they are refused.
    pub target: Option<Addr>,
    /// Where TLS clients go that ask for a certain name; the first that matches counts.
    pub named: Vec<NamedTarget>,
    /// About headers that name the client.
    pub proxy_header: ProxyHeader,
    /// How many connections at once; further ones wait.
    pub max_connections: Option<usize>,
    /// How many connections at once from one IPv4 address or IPv6 /64; further ones are refused. Where clients begin with a
    /// header, it counts whom that names; clients without an address are not counted.
    pub max_per_source: Option<u32>,
    /// How long a target may take to accept. Default 5 seconds.
    pub connect_timeout: Duration,
    /// How long a client's header or first TLS message may take. Default 5 seconds.
    pub header_timeout: Duration,
    /// See [`LinkOptions::idle`].
    pub idle_timeout: Option<Duration>,
    /// See [`LinkOptions::half_open`].
    pub half_open_timeout: Option<Duration>,
}

impl RouteConfig {
    /// From one address to another, with nothing special about it.
    pub fn plain(listen: Addr, target: Addr) -> Self {
        Self {
            name: listen.to_string(),
            listen,
            target: Some(target),
            named: Vec::new(),
            proxy_header: ProxyHeader::Off,
            max_connections: None,
            max_per_source: None,
            connect_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(5),
            idle_timeout: None,
            half_open_timeout: None,
        }
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = &Addr> {
        self.target.iter().chain(self.named.iter().map(|named| &named.target))
    }
}

impl From<Route> for RouteConfig {
    fn from(route: Route) -> Self {
        Self::plain(route.listen, route.target)
    }
}

/// A target for TLS clients that ask for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTarget {
    /// The names.
    pub pattern: NamePattern,
    /// Where their clients go.
    pub target: Addr,
}

/// One name, or `*.` and a name for all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    name: String,
    is_wildcard: bool,
}

impl NamePattern {
    fn matches(&self, name: &str) -> bool {
        if !self.is_wildcard {
            return name == self.name;
        }
        name.strip_suffix(&self.name)
            .and_then(|below| below.strip_suffix('.'))
            .is_some_and(|below| !below.is_empty())
    }
}

/// A text that is no pattern for names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a server name: expected a host name, or `*.` and a host name")]
pub struct PatternError {
    /// The text.
    pub found: String,
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (is_wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let good_label = |label: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(allowed)
        };
        if name.len() > 253 || !name.split('.').all(good_label) {
            return Err(PatternError { found: text.to_owned() });
        }
        Ok(Self { name: name.to_ascii_lowercase(), is_wildcard })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_wildcard { "*." } else { "" }, self.name)
    }
}

/// A route made ready for deciding about clients.
#[derive(Debug)]
pub struct Lanes {
    default: Option<Lane>,
    named: Vec<(NamePattern, Lane)>,
    options: Arc<LinkOptions>,
    header: ProxyHeader,
    connect_timeout: Duration,
    header_timeout: Duration,
}

/// One target.
#[derive(Debug)]
struct Lane {
    target: Arc<Target>,
    /// Where the same application is for connections that come from addresses of IPv6.
    ipv6: Option<Arc<Target>>,
}

impl Lane {
    fn new(addr: &Addr, header: ProxyHeader) -> Result<Self, Error> {
        let target = |addr: &Addr| {
            Target::new(addr).map(Arc::new).ok_or_else(|| Error::NoTarget { addr: addr.clone() })
        };
        let ipv6 = match header {
            ProxyHeader::Source => {
                Some(source::ipv6_of(addr).ok_or_else(|| Error::NoSource { addr: addr.clone() })?)
            }
            _ => None,
        };
        Ok(Self { target: target(addr)?, ipv6: ipv6.as_ref().map(target).transpose()? })
    }
}

impl Lanes {
    pub(super) fn new(route: &RouteConfig) -> Result<Self, Error> {
        let lane = |addr: &Addr| Lane::new(addr, route.proxy_header);
        let named = route.named.iter().map(|named| Ok((named.pattern.clone(), lane(&named.target)?)));
        Ok(Self {
            default: route.target.as_ref().map(lane).transpose()?,
            named: named.collect::<Result<_, Error>>()?,
            options: Arc::new(LinkOptions {
                idle: route.idle_timeout,
                half_open: route.half_open_timeout,
                ..LinkOptions::default()
            }),
            header: route.proxy_header,
            connect_timeout: route.connect_timeout,
            header_timeout: route.header_timeout,
        })
    }

    /// About a client who has sent nothing yet.
    pub(super) fn admit(&self, client: &Client<'_>) -> Verdict {
        if self.header.is_expected() || !self.named.is_empty() {
            return Verdict::Inspect { within: self.header_timeout };
        }
        self.dial(self.default.as_ref(), client, None)
    }

    /// About a client who has sent this much.
    pub(super) fn inspect(&self, client: &Client<'_>, first: &[u8]) -> Verdict {
        let wait = Verdict::Inspect { within: self.header_timeout };
        let mut header = None;
        if self.header.is_expected() {
            match proxy_header::parse(first) {
                Ok(Some(parsed)) => header = Some(parsed),
                Ok(None) => return wait,
                Err(_) => return Verdict::Refuse,
            }
        }
        if self.named.is_empty() {
            return self.dial(self.default.as_ref(), client, header);
        }
        let behind = header.map_or(0, |header| header.length);
        let name = match client_hello::server_name(first.get(behind..).unwrap_or_default()) {
            Hello::Incomplete => return wait,
            Hello::Server(name) => name,
            Hello::NotTls => None,
        };
        let named = name.and_then(|name| self.named.iter().find(|(pattern, _)| pattern.matches(&name)));
        self.dial(named.map(|(_, lane)| lane).or(self.default.as_ref()), client, header)
    }

    /// `header` is what the client has begun with.
    fn dial(&self, lane: Option<&Lane>, client: &Client<'_>, header: Option<Parsed>) -> Verdict {
        let Some(lane) = lane else {
            return Verdict::Refuse;
        };
        let mut source = None;
        if self.header == ProxyHeader::Source {
            let ends = header.and_then(|header| header.ends);
            source = Some(source::of(ends.map(|ends| ends.source)));
        }
        let ipv6 = lane.ipv6.as_ref().filter(|_| source.is_some_and(|source| source.is_ipv6()));
        let target = ipv6.unwrap_or(&lane.target);
        let mut dial = Dial::new(Arc::clone(target), self.connect_timeout, Arc::clone(&self.options));
        dial.source = source;
        dial.client = header.and_then(|header| header.ends).map(|ends| ends.source);
        if let Some(header) = header.filter(|_| self.header.is_taken_off()) {
            dial.consumed = header.length;
        }
        if self.header == ProxyHeader::Send {
            let ends = client.peer.zip(client.local());
            dial.preamble =
                proxy_header::encode(ends.map(|(source, destination)| Ends { source, destination }));
        }
        Verdict::Dial(dial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_is_for_what_is_below_a_name_and_not_for_the_name() {
        let matches = |pattern: &str, name: &str| pattern.parse::<NamePattern>().unwrap().matches(name);
        assert!(matches("*.Example.org", "a.example.org") && matches("*.example.org", "a.b.example.org"));
        assert!(!matches("*.example.org", "example.org") && !matches("*.example.org", "aexample.org"));
        assert!(!matches("*.example.org", ".example.org"));
        assert!(matches("example.org", "example.org") && !matches("example.org", "a.example.org"));
        for bad in ["", "*", "*.", "a..b", "a.*.b", "a b", "-.é"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad}");
        }
        assert_eq!("*.Example.org".parse::<NamePattern>().unwrap().to_string(), "*.example.org");
    }
}
