//! Where the ledger's events go beside the ledger: servers of NATS JetStream.

use std::net::IpAddr;
use std::ops::Range;

use egress::{Destination, Name, Protocol};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{Egress, source::Mistake};

/// The stream unless the manifest names another.
pub const DEFAULT_NATS_STREAM: &str = "glasshouse";

/// Most servers of one cluster.
const MAX_SERVERS: usize = 8;
/// Longest name of a stream.
const MAX_STREAM_BYTES: usize = 64;

// Members stand in ascending order of their names, as the canonical form wants them.

/// The servers that events and records are sent to. They are not trusted: nothing is read back from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nats {
    /// Servers of one cluster, 1 to 8, `nats://HOST:PORT` or `tls://HOST:PORT`: ascending, unique.
    pub servers: Vec<String>,
    /// The stream, which is the first word of subjects and the key-value bucket, too: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub stream: String,
}

/// `monitor.nats`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNats {
    servers: Vec<String>,
    stream: Option<String>,
}

impl Nats {
    /// Checks the rules that hold without a way out: those of the values.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check_values(&self) -> Result<(), &'static str> {
        if !(1..=MAX_SERVERS).contains(&self.servers.len())
            || !self.servers.iter().all(|server| destination(server).is_some())
        {
            return Err(
                "`monitor.nats.servers`: allowed: 1 to 8 of \"nats://HOST:PORT\" and \"tls://HOST:PORT\", in lower case",
            );
        }
        if !self.servers.is_sorted_by(|a, b| a < b) {
            return Err("`monitor.nats.servers` are not ascending and unique");
        }
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !(1..=MAX_STREAM_BYTES).contains(&self.stream.len()) || !self.stream.bytes().all(letter) {
            return Err("`monitor.nats.stream`: allowed: 1 to 64 of A-Z a-z 0-9 _ -");
        }
        Ok(())
    }

    pub(crate) fn check(&self, egress: Option<&Egress>) -> Result<(), &'static str> {
        self.check_values()?;
        let allowed = |server: &String| {
            let to = destination(server).zip(egress);
            to.is_some_and(|((host, port), egress)| {
                egress.policy().evaluate(&host, port, Protocol::Tcp).is_allowed()
            })
        };
        if self.servers.iter().all(allowed) {
            return Ok(());
        }
        Err("`monitor.nats.servers`: `egress.allow` does not have all of them: add \"HOST:PORT\" of each")
    }
}

/// Host and port of a server's URL, in its one spelling.
fn destination(url: &str) -> Option<(Destination, u16)> {
    let authority = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"))?;
    let (host, port) = authority.rsplit_once(':')?;
    let number: u16 = port.parse().ok().filter(|number: &u16| *number > 0 && number.to_string() == port)?;
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => {
            Some(IpAddr::V6(inner.parse().ok().filter(|v6: &std::net::Ipv6Addr| v6.to_string() == inner)?))
        }
        None => host.parse().ok().map(IpAddr::V4),
    };
    let host = match address {
        Some(address) => Destination::Address(address),
        None => Destination::Name(Name::from_normal(host).ok()?),
    };
    Some((host, number))
}

impl RawNats {
    pub(crate) fn check(
        this: Option<Spanned<Self>>,
        egress: Option<&Egress>,
    ) -> Result<Option<Nats>, Mistake> {
        let Some(this) = this else { return Ok(None) };
        let span: Range<usize> = this.span();
        let Self { mut servers, stream } = this.into_inner();
        servers.sort_unstable();
        servers.dedup();
        let nats = Nats { servers, stream: stream.unwrap_or_else(|| DEFAULT_NATS_STREAM.to_owned()) };
        match nats.check(egress) {
            Ok(()) => Ok(Some(nats)),
            Err(message) => Err(Mistake::new(span, message.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Manifest;

    fn parse(nats: &str, allow: &str) -> Result<super::Nats, String> {
        let text = format!(
            "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\n[egress]\nallow = [{allow}]\n\
             [monitor]\nroots = []\nnats = {{ {nats} }}"
        );
        let manifest = Manifest::parse(&text).map_err(|error| error.to_string())?;
        Ok(manifest.resolve(&crate::ImageConfig::default()).unwrap().monitor.unwrap().nats.unwrap())
    }

    #[test]
    fn servers_are_measured_in_one_order_and_have_a_way_out() {
        let servers = r#"servers = ["tls://b.example:4222", "nats://10.0.0.1:4222", "nats://10.0.0.1:4222"]"#;
        let nats = parse(servers, r#""b.example:4222", "10.0.0.1:4222""#).unwrap();
        assert_eq!(nats.servers, ["nats://10.0.0.1:4222", "tls://b.example:4222"]);
        assert_eq!(nats.stream, "glasshouse");
        let error = parse(servers, r#""b.example:4222""#).unwrap_err();
        assert!(error.contains("egress.allow"), "{error}");
    }

    #[test]
    fn a_server_has_one_spelling_and_names_no_user() {
        for bad in [
            "",
            "\"b.example:4222\"",
            "\"nats://b.example\"",
            "\"nats://b.example:0\"",
            "\"nats://b.example:04\"",
            "\"nats://B.example:1\"",
            "\"nats://u:p@b.example:1\"",
            "\"http://b.example:1\"",
            "\"nats://b.example:1/\"",
        ] {
            assert!(parse(&format!("servers = [{bad}]"), "\"b.example\"").is_err(), "{bad}");
        }
        let stream = |name: &str| {
            parse(&format!("servers = [\"nats://b.example:1\"], stream = \"{name}\""), "\"b.example:1\"")
        };
        assert_eq!(stream("fleet_1-A").unwrap().stream, "fleet_1-A");
        for bad in ["", "a.b", "a b", "*", &"x".repeat(65)] {
            assert!(stream(bad).is_err(), "{bad}");
        }
    }
}
