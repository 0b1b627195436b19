//! `--publish`: which port of this machine leads to which port of the enclave.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
};

use manifest::Protocol;
use serde::{Deserialize, Serialize};

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// Where this machine listens; port 0 lets the system choose.
    pub(crate) host: SocketAddr,
    /// The enclave's port.
    pub(crate) enclave: NonZeroU16,
    /// Whether they are ports of TCP, which is not said in records, or of UDP.
    #[serde(default, skip_serializing_if = "Protocol::is_tcp")]
    pub(crate) protocol: Protocol,
}

/// A port as people write it: `443`, or `443/udp`.
pub(crate) fn number(port: NonZeroU16, protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => port.to_string(),
        Protocol::Udp => format!("{port}/udp"),
    }
}

impl Publish {
    /// The same number on both sides, on loopback.
    pub(crate) fn same(port: NonZeroU16, protocol: Protocol) -> Self {
        Self { host: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.get()), enclave: port, protocol }
    }

    /// The vsock port of the enclave that it leads to.
    pub(crate) fn vsock_port(&self) -> u32 {
        manifest::Publish::vsock_port(self.enclave, self.protocol)
    }
}

const FORM: &str = "expected [ADDRESS:]PORT[:ENCLAVE_PORT][/udp], for example 8080, 8081:8080, 0.0.0.0:443:8443, [::1]:80:8080 or 443/udp";

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?}: {FORM}");
        let (text, protocol) = match text.rsplit_once('/') {
            Some((text, "udp")) => (text, Protocol::Udp),
            Some((text, "tcp")) => (text, Protocol::Tcp),
            _ => (text, Protocol::Tcp),
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        // An address is what stands before the first `:` unless that is a number, or what stands in brackets.
        let (address, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, ports) = rest.split_once("]:").ok_or_else(wrong)?;
                (Some(address), ports)
            }
            None => match text.split_once(':') {
                Some((first, rest)) if first.parse::<u16>().is_err() => (Some(first), rest),
                _ => (None, text),
            },
        };
        let address =
            address.map_or(Ok(IpAddr::from(Ipv4Addr::LOCALHOST)), str::parse).map_err(|_| wrong())?;
        let (host, enclave) = ports.split_once(':').unwrap_or((ports, ports));
        let enclave = NonZeroU16::new(port(enclave)?).ok_or_else(wrong)?;
        Ok(Self { host: SocketAddr::new(address, port(host)?), enclave, protocol })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.host, number(self.enclave, self.protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        for (text, shown) in [
            ("8080", "127.0.0.1:8080->8080"),
            ("8081:8080", "127.0.0.1:8081->8080"),
            ("0:8080", "127.0.0.1:0->8080"),
            ("0.0.0.0:443:8443", "0.0.0.0:443->8443"),
            ("0.0.0.0:80", "0.0.0.0:80->80"),
            ("[::1]:80:8080", "[::1]:80->8080"),
            ("443/udp", "127.0.0.1:443->443/udp"),
            ("0.0.0.0:443:4433/udp", "0.0.0.0:443->4433/udp"),
            ("80/tcp", "127.0.0.1:80->80"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn other_forms_are_refused_with_examples() {
        for text in [
            "",
            "x",
            "80:0",
            "0",
            "70000",
            "::1:80",
            "[::1]80",
            "1.2.3.4",
            "1:2:3",
            "localhost:1:2",
            "80:",
            "80/sctp",
            "/udp",
        ] {
            let error = text.parse::<Publish>().expect_err(text);
            assert!(error.contains("ENCLAVE_PORT"), "{error}");
        }
    }
}
