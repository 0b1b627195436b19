//! Published ports: what of the enclave is reached from outside, and how.

use std::num::{NonZeroU16, NonZeroU32};

use ::egress::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use crate::{
    Attestation, Control,
    source::{Mistake, check_port, mistake},
};

/// One way in: a port, or one of the applications behind it.
///
/// Written as the port alone where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    /// The port of the enclave, as others see it.
    pub port: NonZeroU16,
    /// Whether it is a port of TCP or of UDP, which are ports apart.
    pub protocol: Protocol,
    /// How the application learns who its client is; `None`: it does not. The same for all entries of a port.
    pub client_address: Option<ClientAddress>,
    /// How many connections at once one client may have, by IPv4 address or IPv6 /64; only with `client_address`, and the same for all
    /// entries of a port.
    pub max_per_source: Option<NonZeroU32>,
    /// The server name that TLS clients ask for, in lower case, or `*.` and a name for all below it; `None` is for who asks
    /// for no other entry's. TCP only, as all of these but the ports.
    pub sni: Option<String>,
    /// The port of the enclave's loopback where the application listens.
    pub target: NonZeroU16,
}

/// What is carried to a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Whether it is the one that goes without saying.
    pub fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }
}

/// The first vsock port for datagrams: those of the enclave's UDP port N are carried at this plus N. TCP's published ports have their own
/// numbers, all below.
const FIRST_DATAGRAM_PORT: u32 = 1 << 16;

/// How an application learns who its client is. The host says who it is, so either way it is what the host wants to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddress {
    /// Each connection begins with a PROXY protocol v2 header, which the application reads.
    ProxyProtocol,
    /// Each connection comes from the client's address.
    Source,
}

impl Publish {
    /// A port that leads to the same port inside, whoever asks.
    pub fn plain(port: NonZeroU16) -> Self {
        let protocol = Protocol::Tcp;
        Self { port, protocol, client_address: None, max_per_source: None, sni: None, target: port }
    }

    /// The vsock port of the enclave where it is carried (`docs/spec/datagrams.md`).
    pub fn vsock_port(port: NonZeroU16, protocol: Protocol) -> u32 {
        let number = u32::from(port.get());
        if protocol.is_tcp() { number } else { FIRST_DATAGRAM_PORT | number }
    }
}

impl From<NonZeroU16> for Publish {
    fn from(port: NonZeroU16) -> Self {
        Self::plain(port)
    }
}

/// The long form of the measured manifest, its members in ascending order of their names.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_address: Option<ClientAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_per_source: Option<NonZeroU32>,
    port: NonZeroU16,
    #[serde(default, skip_serializing_if = "Protocol::is_tcp")]
    protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sni: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<NonZeroU16>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Port(NonZeroU16),
    Full(Full),
}

impl Serialize for Publish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::plain(self.port) {
            return self.port.serialize(serializer);
        }
        let target = (self.target != self.port).then_some(self.target);
        let Self { port, protocol, client_address, max_per_source, ref sni, .. } = *self;
        Full { client_address, max_per_source, port, protocol, sni: sni.clone(), target }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Port(port) => Self::plain(port),
            Form::Full(Full { client_address, max_per_source, port, protocol, sni, target }) => {
                let target = target.unwrap_or(port);
                Self { port, protocol, client_address, max_per_source, sni, target }
            }
        })
    }
}

/// Checks the rules between entries of the measured form.
pub(crate) fn check(entries: &[Publish]) -> Result<(), &'static str> {
    let key = |entry: &Publish| (entry.port, entry.protocol, entry.sni.clone());
    if !entries.is_sorted_by(|a, b| key(a) < key(b)) {
        return Err("published ports are not ascending and unique");
    }
    let of_one_port = || {
        entries.windows(2).filter_map(|pair| match pair {
            [a, b] if (a.port, a.protocol) == (b.port, b.protocol) => Some((a, b)),
            _ => None,
        })
    };
    if of_one_port().any(|(a, b)| a.client_address != b.client_address) {
        return Err("a published port names its clients in two ways");
    }
    if of_one_port().any(|(a, b)| a.max_per_source != b.max_per_source) {
        return Err("a published port has two limits for a client");
    }
    if entries.iter().any(|entry| entry.max_per_source.is_some() && entry.client_address.is_none()) {
        return Err("a published port limits clients whom it does not know");
    }
    let says_too_much = |entry: &Publish| entry.sni.is_some() || entry.client_address.is_some();
    if entries.iter().any(|entry| entry.protocol == Protocol::Udp && says_too_much(entry)) {
        return Err("a published UDP port has what only TCP has");
    }
    let is_wrong = |name: &String| Name::from_normal(name.strip_prefix("*.").unwrap_or(name)).is_err();
    match entries.iter().filter_map(|entry| entry.sni.as_ref()).any(is_wrong) {
        true => Err("a published port's server name is none"),
        false => Ok(()),
    }
}

/// `[[publish]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with the port, as in `{ port = 443 }`")]
pub(crate) struct RawPublish {
    port: Spanned<u16>,
    #[serde(default)]
    protocol: Protocol,
    client_address: Option<Spanned<ClientAddress>>,
    max_per_source: Option<Spanned<u32>>,
    sni: Option<Spanned<String>>,
    target: Option<Spanned<u16>>,
}

impl RawPublish {
    pub(crate) fn check(
        raw: Vec<Self>,
        attestation: Option<&Attestation>,
        control: Option<&Control>,
    ) -> Result<Vec<Publish>, Mistake> {
        let mut entries: Vec<Publish> = Vec::with_capacity(raw.len());
        for one in raw {
            let at = one.port.clone();
            let entry = one.entry(attestation, control)?;
            let port = entry.port;
            let shares = |other: &Publish| (other.port, other.protocol) == (port, entry.protocol);
            if entries.iter().any(|other| shares(other) && other.sni == entry.sni) {
                let text = match &entry.sni {
                    None => format!(
                        "`publish.port`: {port} stands there twice: remove one, or give one of them `sni`, or `protocol = \"udp\"`"
                    ),
                    Some(name) => format!("`publish.sni`: {name} stands there twice for port {port}"),
                };
                return Err(mistake(&at, text));
            }
            let has_other = |differs: fn(&Publish, &Publish) -> bool| {
                entries.iter().any(|other| shares(other) && differs(other, &entry))
            };
            for (member, differs) in [
                ("client_address", has_other(|a, b| a.client_address != b.client_address)),
                ("max_per_source", has_other(|a, b| a.max_per_source != b.max_per_source)),
            ] {
                if differs {
                    let text =
                        format!("`publish.{member}`: has to be the same in all entries of port {port}");
                    return Err(mistake(&at, text));
                }
            }
            entries.push(entry);
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn entry(self, attestation: Option<&Attestation>, control: Option<&Control>) -> Result<Publish, Mistake> {
        if self.protocol == Protocol::Udp {
            return self.datagrams();
        }
        let port = check_port("publish.port", &self.port)?;
        if attestation.is_some_and(|a| a.ports().any(|own| own == port)) {
            let text =
                format!("`publish.port`: {port} is the attestation web server's and is published already");
            return Err(mistake(&self.port, text));
        }
        if control.is_some_and(|c| c.port == port) {
            return Err(mistake(&self.port, format!("`publish.port`: {port} is the control channel's")));
        }
        let target = self.target(port)?;
        let sni = self.sni.map(|name| server_name(&name)).transpose()?;
        let client_address = self.client_address.map(Spanned::into_inner);
        let max_per_source =
            self.max_per_source.map(|limit| source_limit(&limit, client_address)).transpose()?;
        Ok(Publish { port, protocol: Protocol::Tcp, client_address, max_per_source, sni, target })
    }

    /// A port of UDP, of which there is less to say, and whose numbers are nobody else's.
    fn datagrams(self) -> Result<Publish, Mistake> {
        let text = |member: &str| {
            format!("`publish.{member}`: is for TCP only: leave it out with `protocol = \"udp\"`")
        };
        if let Some(sni) = &self.sni {
            return Err(mistake(sni, text("sni")));
        }
        if let Some(way) = &self.client_address {
            return Err(mistake(way, text("client_address")));
        }
        if let Some(limit) = &self.max_per_source {
            return Err(mistake(limit, text("max_per_source")));
        }
        let port = NonZeroU16::new(*self.port.get_ref())
            .ok_or_else(|| mistake(&self.port, "`publish.port`: 0 is no port"))?;
        Ok(Publish { protocol: Protocol::Udp, target: self.target(port)?, ..Publish::plain(port) })
    }

    fn target(&self, port: NonZeroU16) -> Result<NonZeroU16, Mistake> {
        match &self.target {
            None => Ok(port),
            Some(target) => NonZeroU16::new(*target.get_ref())
                .ok_or_else(|| mistake(target, "`publish.target`: 0 is no port")),
        }
    }
}

/// The normal form of a server name, or of a pattern.
fn server_name(written: &Spanned<String>) -> Result<String, Mistake> {
    let text = written.get_ref();
    let (below, name) = text.strip_prefix("*.").map_or(("", text.as_str()), |name| ("*.", name));
    match name.parse::<Name>() {
        Ok(name) => Ok(format!("{below}{name}")),
        Err(error) => {
            let text =
                format!("`publish.sni`: {text:?}: {error}: write a host name, or `*.` and a host name");
            Err(mistake(written, text))
        }
    }
}

fn source_limit(limit: &Spanned<u32>, client_address: Option<ClientAddress>) -> Result<NonZeroU32, Mistake> {
    let count = NonZeroU32::new(*limit.get_ref());
    let count = count.ok_or_else(|| mistake(limit, "`publish.max_per_source`: 0 would let nobody in"))?;
    if client_address.is_none() {
        let text = "`publish.max_per_source`: needs `client_address`, without which the enclave does not know its clients";
        return Err(mistake(limit, text));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn parse(publish: &str) -> Result<Vec<Publish>, String> {
        let text = format!("name = \"x\"\nimage.rootfs = \"r\"\n{publish}\n[app]\ncommand = [\"/app\"]\n");
        let manifest = Manifest::parse(&text).map_err(|error| error.message)?;
        Ok(manifest.resolve(&crate::ImageConfig::default()).unwrap().publish)
    }

    #[test]
    fn several_applications_share_a_port() {
        let found = parse(
            "[[publish]]\nport = 443\nsni = \"B.example\"\ntarget = 8443\n\
             [[publish]]\nport = 443\n[[publish]]\nport = 443\nsni = \"*.a.example\"\ntarget = 9443\n\
             [[publish]]\nport = 80\nclient_address = \"proxy_protocol\"\n\
             [[publish]]\nport = 81\nclient_address = \"source\"\nmax_per_source = 50",
        )
        .unwrap();
        let json = serde_json::to_string(&found).unwrap();
        let expected = r#"[{"client_address":"proxy_protocol","port":80},{"client_address":"source","max_per_source":50,"port":81},443,{"port":443,"sni":"*.a.example","target":9443},{"port":443,"sni":"b.example","target":8443}]"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Vec<Publish>>(&json).unwrap(), found);
        check(&found).unwrap();
    }

    #[test]
    fn tcp_and_udp_have_ports_apart() {
        let found = parse(
            "[[publish]]\nport = 443\nprotocol = \"udp\"\ntarget = 4433\n[[publish]]\nport = 443\nprotocol = \"tcp\"\n\
             [[publish]]\nport = 8443\nprotocol = \"udp\"\n[[publish]]\nport = 9000\nprotocol = \"udp\"",
        )
        .unwrap();
        let json = serde_json::to_string(&found).unwrap();
        let expected = r#"[443,{"port":443,"protocol":"udp","target":4433},{"port":8443,"protocol":"udp"},{"port":9000,"protocol":"udp"}]"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Vec<Publish>>(&json).unwrap(), found);
        check(&found).unwrap();
        assert_eq!(Publish::vsock_port(found[0].port, Protocol::Tcp), 443);
        assert_eq!(Publish::vsock_port(found[0].port, Protocol::Udp), 65_979);
    }

    #[test]
    fn server_names_have_one_form() {
        let found = parse("[[publish]]\nport = 443\nsni = \"*.Bücher.example.\"").unwrap();
        assert_eq!(found[0].sni.as_deref(), Some("*.xn--bcher-kva.example"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("[[publish]]\nport = 80\n[[publish]]\nport = 80", "80 stands there twice"),
            (
                "[[publish]]\nport = 80\nsni = \"a\"\n[[publish]]\nport = 80\nsni = \"A\"",
                "a stands there twice for port 80",
            ),
            ("[[publish]]\nport = 80\nsni = \"a..b\"", "`publish.sni`"),
            ("[[publish]]\nport = 80\nsni = \"*\"", "`publish.sni`"),
            ("[[publish]]\nport = 80\ntarget = 0", "`publish.target`"),
            (
                "[[publish]]\nport = 80\nclient_address = \"source\"\n[[publish]]\nport = 80\nsni = \"a\"",
                "the same in all entries of port 80",
            ),
            ("[[publish]]\nport = 80\nmax_per_source = 5", "needs `client_address`"),
            ("[[publish]]\nport = 80\nclient_address = \"source\"\nmax_per_source = 0", "let nobody in"),
            (
                "[[publish]]\nport = 80\nclient_address = \"source\"\nmax_per_source = 5\n\
                 [[publish]]\nport = 80\nsni = \"a\"\nclient_address = \"source\"",
                "`publish.max_per_source`: has to be the same in all entries of port 80",
            ),
            ("[[publish]]\nport = 443\nsni = \"192.0.2.1\"", "ends in a number, as addresses do"),
            ("publish = [443]", "expected a table with the port"),
            ("[[publish]]\nport = 80\nprotocol = \"udp\"\nsni = \"a\"", "`publish.sni`: is for TCP only"),
            ("[[publish]]\nport = 80\nprotocol = \"udp\"\nclient_address = \"source\"", "is for TCP only"),
            ("[[publish]]\nport = 80\nprotocol = \"udp\"\nmax_per_source = 1", "is for TCP only"),
            ("[[publish]]\nport = 0\nprotocol = \"udp\"", "0 is no port"),
            ("[[publish]]\nport = 80\nprotocol = \"sctp\"", "`tcp` or `udp`"),
            (
                "[[publish]]\nport = 80\nprotocol = \"udp\"\n[[publish]]\nport = 80\nprotocol = \"udp\"\ntarget = 1",
                "80 stands there twice",
            ),
            ("[[publish]]\nport = 80\nclient_address = \"telepathy\"", "`proxy_protocol` or `source`"),
            ("[[publish]]\nport = 8443", "published already"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn entries_that_no_builder_writes_are_refused() {
        let entry = |json: &str| serde_json::from_str::<Publish>(json).unwrap();
        for (entries, says) in [
            (vec![entry("80"), entry("80")], "ascending"),
            (vec![entry(r#"{"port":80,"sni":"b"}"#), entry(r#"{"port":80,"sni":"a"}"#)], "ascending"),
            (vec![entry(r#"{"port":80,"sni":"A"}"#)], "server name"),
            (vec![entry("80"), entry(r#"{"client_address":"source","port":80,"sni":"a"}"#)], "two ways"),
            (vec![entry(r#"{"max_per_source":1,"port":80}"#)], "does not know"),
            (vec![entry(r#"{"port":80,"protocol":"udp","sni":"a"}"#)], "only TCP"),
            (vec![entry(r#"{"port":80,"protocol":"udp"}"#), entry("80")], "ascending"),
            (
                vec![
                    entry(r#"{"client_address":"source","port":80}"#),
                    entry(r#"{"client_address":"source","max_per_source":1,"port":80,"sni":"a"}"#),
                ],
                "two limits",
            ),
        ] {
            assert!(check(&entries).unwrap_err().contains(says), "{entries:?}");
        }
        for wrong in
            ["0", "70000", r#"{"port":80,"other":1}"#, r#"{"client_address":"","port":80}"#, r#"{"sni":"a"}"#]
        {
            assert!(serde_json::from_str::<Publish>(wrong).is_err(), "{wrong}");
        }
    }
}
