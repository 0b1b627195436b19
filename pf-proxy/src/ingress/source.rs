//! Connections to applications of this machine that come from their clients' addresses.
//!
//! A client's address is nobody's here, so the socket is bound to it all the same (`IP_TRANSPARENT`), and what the application
//! answers has to stay here: a rule sends whatever comes from loopback, and would leave, to loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use transport::Addr;

/// Whom clients appear as who have no address in the world: the IPv4 dummy address (RFC 7600, section 4.8), which nobody has.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The routing table of ours, and where its rule stands: behind that for local addresses, before all others.
const TABLE: u8 = 179;
const PRIORITY: u32 = 179;

/// The index of loopback in every network namespace.
const LOOPBACK: u32 = 1;

const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const ERROR: u16 = 2;
/// A request; to be answered; makes something; which must not be there.
const FLAGS: u16 = 0x1 | 0x4 | 0x400 | 0x200;
const HEADER_BYTES: usize = 16;

/// Where the connection of a client is to come from, of whom somebody says that this is its address.
///
/// An address that has a meaning here would pass for somebody of this machine, or could not be answered.
pub(super) fn of(claimed: Option<SocketAddr>) -> SocketAddr {
    let claimed = claimed.map(|claimed| SocketAddr::new(claimed.ip().to_canonical(), claimed.port()));
    claimed.filter(|claimed| is_of_the_world(claimed.ip())).unwrap_or((NOBODY, 0).into())
}

fn is_of_the_world(ip: IpAddr) -> bool {
    let has_meaning_here = match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let is_here = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    !has_meaning_here && !is_here && !intercept::plan::is_of_the_plan(ip)
}

/// Where clients of IPv6 find an application that clients of IPv4 find at `target`; `None` if that is not 127.0.0.1.
pub(super) fn ipv6_of(target: &Addr) -> Option<Addr> {
    let Addr::Tcp(text) = target else { return None };
    let port = text.strip_prefix("127.0.0.1:")?;
    Some(Addr::Tcp(format!("[::1]:{port}")))
}

/// Keeps on this machine what loopback answers to addresses elsewhere.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_NET_ADMIN`, `EAFNOSUPPORT` or `EOPNOTSUPP` without policy routing.
pub(super) fn keep_answers_here() -> io::Result<()> {
    // The protocol of routes is number 0 of this family.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    ask(&socket, &route(AddressFamily::INET))?;
    ask(&socket, &rule(AddressFamily::INET, &[127, 0, 0, 0], 8))?;
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        ask(&socket, &route(AddressFamily::INET6))?;
        ask(&socket, &rule(AddressFamily::INET6, &std::net::Ipv6Addr::LOCALHOST.octets(), 128))?;
    }
    Ok(())
}

/// `local default dev lo table TABLE`
fn route(family: AddressFamily) -> Vec<u8> {
    const STATIC: u8 = 4;
    const HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const RTA_OIF: u16 = 4;
    let fixed = [byte(family), 0, 0, 0, TABLE, STATIC, HOST, LOCAL, 0, 0, 0, 0];
    message(NEW_ROUTE, &fixed, &[(RTA_OIF, &LOOPBACK.to_ne_bytes())])
}

/// `from ADDRESS/BITS lookup TABLE`
fn rule(family: AddressFamily, address: &[u8], bits: u8) -> Vec<u8> {
    const TO_TABLE: u8 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_PRIORITY: u16 = 6;
    let fixed = [byte(family), 0, bits, 0, TABLE, 0, 0, TO_TABLE, 0, 0, 0, 0];
    message(NEW_RULE, &fixed, &[(FRA_SRC, address), (FRA_PRIORITY, &PRIORITY.to_ne_bytes())])
}

fn byte(family: AddressFamily) -> u8 {
    u8::try_from(family.as_raw()).expect("families of addresses are small numbers")
}

/// A message of netlink. All parts are multiples of four bytes.
fn message(kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend(fixed);
    for (kind, value) in attributes {
        let length = u16::try_from(4 + value.len()).expect("attributes are short");
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(*value);
    }
    let length = u32::try_from(bytes.len()).expect("messages are short");
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    bytes
}

/// Sends a message and reads its answer, which is there when sending returns. What is there already is fine.
fn ask(socket: impl std::os::fd::AsFd, message: &[u8]) -> io::Result<()> {
    send(&socket, message, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    let answer = answer.get(..length).unwrap_or_default();
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|bytes| bytes.try_into().ok());
    match (kind, code.map(i32::from_ne_bytes)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) if -code == Errno::EXIST.raw_os_error() => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_from_their_addresses_but_nobody_from_here() {
        let of = |text: &str| of(Some(text.parse().unwrap())).to_string();
        for itself in ["203.0.113.7:4000", "10.1.2.3:1", "[2001:db8::7]:4000", "169.254.1.1:5"] {
            assert_eq!(of(itself), itself);
        }
        assert_eq!(of("[::ffff:203.0.113.7]:4000"), "203.0.113.7:4000");
        for nobody in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "255.255.255.255:80",
            "[fe80::1]:80",
            "198.18.0.53:53",
            "198.19.0.1:80",
            "[fd67:6c61:7373:1::1]:80",
        ] {
            assert_eq!(of(nobody), "192.0.0.8:0", "{nobody}");
        }
        assert_eq!(super::of(None).to_string(), "192.0.0.8:0");
    }

    #[test]
    fn applications_are_found_by_either_family() {
        let six = |text: &str| ipv6_of(&text.parse().unwrap()).map(|addr| addr.to_string());
        assert_eq!(six("tcp://127.0.0.1:80").as_deref(), Some("tcp://[::1]:80"));
        assert!(
            ["tcp://192.0.2.1:80", "tcp://localhost:80", "unix:/x"]
                .into_iter()
                .all(|other| six(other).is_none())
        );
    }

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let rule = rule(AddressFamily::INET, &[127, 0, 0, 0], 8);
        assert_eq!(rule.len(), 16 + 12 + 8 + 8);
        assert_eq!(&rule[..4], 44_u32.to_ne_bytes());
        assert_eq!(&rule[16..28], [2, 0, 8, 0, 179, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&rule[32..36], [127, 0, 0, 0]);
        assert_eq!(route(AddressFamily::INET6).len(), 16 + 12 + 8);
    }
}
