//! Published ports: what of the enclave is reached from outside, and how.

use std::num::{NonZeroU16, NonZeroU32};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use crate::{
    Attestation, Control,
    source::{Mistake, check_port, mistake},
};

/// Longest server name, in bytes (RFC 1035, section 2.3.4, without the root's dot).
const MAX_SERVER_NAME_BYTES: usize = 253;

/// One way in: a port, or one of the applications behind it.
///
/// Written as the port alone where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    /// The port of the enclave, as others see it.
    pub port: NonZeroU16,
    /// How the application learns who its client is; `None`: it does not. The same for all entries of a port.
    pub client_address: Option<ClientAddress>,
    /// How many connections at once one client may have, by IPv4 address or IPv6 /64; only with `client_address`, and the same for all
    /// entries of a port.
    pub max_per_source: Option<NonZeroU32>,
    /// The server name that TLS clients ask for, in lower case, or `*.` and a name for all below it; `None` is for who asks
    /// for no other entry's.
    pub sni: Option<String>,
    /// The TCP port of the enclave's loopback where the application listens.
    pub target: NonZeroU16,
}

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
        Self { port, client_address: None, max_per_source: None, sni: None, target: port }
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
        let Self { port, client_address, max_per_source, ref sni, .. } = *self;
        Full { client_address, max_per_source, port, sni: sni.clone(), target }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Port(port) => Self::plain(port),
            Form::Full(Full { client_address, max_per_source, port, sni, target }) => {
                Self { port, client_address, max_per_source, sni, target: target.unwrap_or(port) }
            }
        })
    }
}

/// Checks the rules between entries of the measured form.
pub(crate) fn check(entries: &[Publish]) -> Result<(), &'static str> {
    let key = |entry: &Publish| (entry.port, entry.sni.clone());
    if !entries.is_sorted_by(|a, b| key(a) < key(b)) {
        return Err("published ports are not ascending and unique");
    }
    let of_one_port = || {
        entries.windows(2).filter_map(|pair| match pair {
            [a, b] if a.port == b.port => Some((a, b)),
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
    let is_wrong =
        |name: &String| !is_server_name(name) || name.bytes().any(|byte| byte.is_ascii_uppercase());
    match entries.iter().filter_map(|entry| entry.sni.as_ref()).any(is_wrong) {
        true => Err("a published port's server name is none"),
        false => Ok(()),
    }
}

/// A host name, or `*.` and a host name.
fn is_server_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= MAX_SERVER_NAME_BYTES && name.split('.').all(is_label)
}

/// `[[publish]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPublish {
    port: Spanned<u16>,
    client_address: Option<ClientAddress>,
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
            if entries.iter().any(|other| (other.port, &other.sni) == (port, &entry.sni)) {
                let text = match &entry.sni {
                    None => format!("`publish.port`: {port} stands there twice"),
                    Some(name) => format!("`publish.sni`: {name} stands there twice for port {port}"),
                };
                return Err(mistake(&at, text));
            }
            let has_other = |differs: fn(&Publish, &Publish) -> bool| {
                entries.iter().any(|other| other.port == port && differs(other, &entry))
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
        let port = check_port("publish.port", &self.port)?;
        if attestation.is_some_and(|a| a.ports().any(|own| own == port)) {
            let text =
                format!("`publish.port`: {port} is the attestation web server's and is published already");
            return Err(mistake(&self.port, text));
        }
        if control.is_some_and(|c| c.port == port) {
            return Err(mistake(&self.port, format!("`publish.port`: {port} is the control channel's")));
        }
        let target = match &self.target {
            None => port,
            Some(target) => NonZeroU16::new(*target.get_ref())
                .ok_or_else(|| mistake(target, "`publish.target`: 0 is no port"))?,
        };
        if let Some(name) = self.sni.as_ref().filter(|name| !is_server_name(name.get_ref())) {
            let text = format!("`publish.sni`: {:?}: a host name, or `*.` and a host name", name.get_ref());
            return Err(mistake(name, text));
        }
        let sni = self.sni.map(|name| name.into_inner().to_ascii_lowercase());
        let client_address = self.client_address;
        let max_per_source =
            self.max_per_source.map(|limit| source_limit(&limit, client_address)).transpose()?;
        Ok(Publish { port, client_address, max_per_source, sni, target })
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
