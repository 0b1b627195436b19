//! The addresses inside: which are the device's, which stand for peers, which are lent to names.
//!
//! IPv4 ones are of 198.18.0.0/15 (RFC 2544), where nothing of the Internet lives; IPv6 ones of one prefix of unique local
//! addresses (RFC 4193). None ever leaves the enclave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The device's own IPv4 address: every connection of the enclave's programs comes from it.
pub const OWN_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The device's own IPv6 address.
pub const OWN_IPV6: Ipv6Addr = Ipv6Addr::new(PREFIX[0], PREFIX[1], PREFIX[2], 0, 0, 0, 0, 1);

/// Who answers when something cannot be reached.
pub const ROUTER_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// As [`ROUTER_IPV4`] for IPv6.
pub const ROUTER_IPV6: Ipv6Addr = Ipv6Addr::new(PREFIX[0], PREFIX[1], PREFIX[2], 0, 0, 0, 0, 2);

/// Where the enclave's resolver is asked, at port 53 by UDP and TCP.
pub const RESOLVER_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);

/// As [`RESOLVER_IPV4`] for IPv6.
pub const RESOLVER_IPV6: Ipv6Addr = Ipv6Addr::new(PREFIX[0], PREFIX[1], PREFIX[2], 0, 0, 0, 0, 0x53);

/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// How many names can have an address at once.
pub const MAX_NAMES: u32 = 65_536;

/// The first 48 bits of all IPv6 addresses here.
const PREFIX: [u16; 3] = [0xfd67, 0x6c61, 0x7373];

/// Names have 198.19.0.0/16 and the subnet 1 of the prefix.
const NAMES_IPV4: u32 = u32::from_be_bytes([198, 19, 0, 0]);
const NAMES_SUBNET: u16 = 1;

/// Peers have 198.18.128.0/17 and the subnet 2.
const PEERS_IPV4: u32 = u32::from_be_bytes([198, 18, 128, 0]);
const PEERS_SUBNET: u16 = 2;

/// How many addresses peers have.
pub(crate) const PEER_ADDRESSES: u32 = 1 << 15;

/// The two versions of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Family {
    /// Which one an address is of.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The device's own address.
    pub fn own(self) -> IpAddr {
        self.pick(OWN_IPV4, OWN_IPV6)
    }

    /// Who answers when something cannot be reached.
    pub fn router(self) -> IpAddr {
        self.pick(ROUTER_IPV4, ROUTER_IPV6)
    }

    /// Where the resolver is asked.
    pub fn resolver(self) -> IpAddr {
        self.pick(RESOLVER_IPV4, RESOLVER_IPV6)
    }

    /// The address lent to the name of this number, which is below [`MAX_NAMES`].
    pub(crate) fn name(self, number: u32) -> IpAddr {
        self.numbered(NAMES_IPV4, NAMES_SUBNET, number)
    }

    /// The address of the peer of this number, which is below [`PEER_ADDRESSES`].
    pub(crate) fn peer(self, number: u32) -> IpAddr {
        self.numbered(PEERS_IPV4, PEERS_SUBNET, number)
    }

    fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }

    fn numbered(self, first: u32, subnet: u16, number: u32) -> IpAddr {
        let [high, low] = [number >> 16, number & 0xffff].map(|half| u16::try_from(half).unwrap_or_default());
        let v6 = Ipv6Addr::new(PREFIX[0], PREFIX[1], PREFIX[2], subnet, 0, 0, high, low);
        self.pick(Ipv4Addr::from_bits(first | number), v6)
    }
}

/// The number of the name that an address is lent to; `None` for every other address.
pub(crate) fn name_number(address: IpAddr) -> Option<u32> {
    let number = match address {
        IpAddr::V4(v4) => v4.to_bits() ^ NAMES_IPV4,
        IpAddr::V6(v6) => match v6.segments() {
            [a, b, c, NAMES_SUBNET, 0, 0, high, low] if [a, b, c] == PREFIX => {
                (u32::from(high) << 16) | u32::from(low)
            }
            _ => return None,
        },
    };
    (number < MAX_NAMES).then_some(number)
}

/// Whether an address is one of this plan, and so nobody's outside.
pub fn is_of_the_plan(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 198 && v4.octets()[1] & 0xfe == 18,
        IpAddr::V6(v6) => v6.segments()[..3] == PREFIX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_names_lead_back_and_no_others_do() {
        for number in [0, 1, 255, 256, 65_535] {
            for family in [Family::V4, Family::V6] {
                let address = family.name(number);
                assert_eq!(name_number(address), Some(number), "{address}");
                assert!(is_of_the_plan(address));
                assert_eq!(name_number(family.peer(number & 0x7fff)), None);
                assert!(is_of_the_plan(family.peer(number & 0x7fff)));
            }
        }
        for other in [
            "198.18.0.1",
            "198.20.0.0",
            "198.17.255.255",
            "fd67:6c61:7373:1::1:0",
            "::1",
            "fd67:6c61:7373::1",
        ] {
            assert_eq!(name_number(other.parse().unwrap()), None, "{other}");
        }
        assert!(!is_of_the_plan("198.20.0.0".parse().unwrap()));
        assert!(!is_of_the_plan("fd67:6c61:7374::1".parse().unwrap()));
    }

    #[test]
    fn the_parts_do_not_overlap() {
        let own = [OWN_IPV4, ROUTER_IPV4, RESOLVER_IPV4].map(Ipv4Addr::to_bits);
        assert!(own.iter().all(|address| *address < PEERS_IPV4));
        const { assert!(PEERS_IPV4 + PEER_ADDRESSES <= NAMES_IPV4) };
        assert_eq!(Family::V4.name(MAX_NAMES - 1), IpAddr::from([198, 19, 255, 255]));
    }
}
