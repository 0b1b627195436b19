//! Addresses that no public name stands for, and that a policy has to list before anybody reaches them.
//!
//! From the IANA registries of special-purpose addresses (RFC 6890) and the clouds' documentation of their metadata
//! services. Ranges that exist for documentation only are left out: nobody answers there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::Network;

/// What makes an address special.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// The service that hands an instance's credentials to whoever asks from it.
    Metadata,
    /// The machine itself.
    Loopback,
    /// The machines on the same link (RFC 3927, RFC 4291).
    LinkLocal,
    /// Networks that are not the internet's (RFC 1918, RFC 4193, RFC 6598, RFC 8215).
    Private,
    /// Many at once (RFC 5771, RFC 4291).
    Multicast,
    /// Nobody in particular: on many systems the machine itself.
    Unspecified,
    /// Set aside for protocols and measurements, or for a future that did not come.
    Reserved,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "instance metadata",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Reserved => "reserved",
        })
    }
}

/// Why an address is special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// What it is.
    pub class: Class,
    /// The range that makes it so. A rule lists the address when the rule's own range lies in this one.
    pub range: Network,
}

/// The ranges of IPv4, narrower ones before those they lie in.
const V4: [(Class, Network); 15] = [
    (Class::Metadata, Network::v4([169, 254, 169, 254], 32)),
    (Class::LinkLocal, Network::v4([169, 254, 0, 0], 16)),
    (Class::Loopback, Network::v4([127, 0, 0, 0], 8)),
    (Class::Private, Network::v4([10, 0, 0, 0], 8)),
    (Class::Private, Network::v4([172, 16, 0, 0], 12)),
    (Class::Private, Network::v4([192, 168, 0, 0], 16)),
    (Class::Metadata, Network::v4([100, 100, 100, 200], 32)),
    (Class::Private, Network::v4([100, 64, 0, 0], 10)),
    (Class::Metadata, Network::v4([168, 63, 129, 16], 32)),
    (Class::Unspecified, Network::v4([0, 0, 0, 0], 8)),
    (Class::Multicast, Network::v4([224, 0, 0, 0], 4)),
    (Class::Reserved, Network::v4([192, 0, 0, 0], 24)),
    (Class::Reserved, Network::v4([192, 88, 99, 0], 24)),
    (Class::Reserved, Network::v4([198, 18, 0, 0], 15)),
    (Class::Reserved, Network::v4([240, 0, 0, 0], 4)),
];

/// The ranges of IPv6, narrower ones before those they lie in.
const V6: [(Class, Network); 12] = [
    (Class::Metadata, Network::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128)),
    (Class::Metadata, Network::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128)),
    (Class::Unspecified, Network::v6([0; 8], 128)),
    (Class::Loopback, Network::v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    (Class::Reserved, Network::v6([0; 8], 96)),
    (Class::Private, Network::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)),
    (Class::Reserved, Network::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64)),
    (Class::Reserved, Network::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23)),
    (Class::Private, Network::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
    (Class::LinkLocal, Network::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    (Class::Private, Network::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10)),
    (Class::Multicast, Network::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
];

/// The IPv6 ranges whose addresses carry an IPv4 address, and after how many bits it begins: NAT64 (RFC 6052), the
/// stateless translators' own (RFC 2765), 6to4 (RFC 3056).
const CARRIERS: [(Network, u8); 3] = [
    (Network::v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), 96),
    (Network::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), 96),
    (Network::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), 16),
];

/// The address that a connection to `address` would really go to: an IPv4-mapped one is the IPv4 address.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What is special about `address`, or nothing if it is a public one.
///
/// An IPv6 address that carries an IPv4 address is what that one is.
pub fn special(address: IpAddr) -> Option<Special> {
    match canonical(address) {
        IpAddr::V4(v4) => find(&V4, v4.into()),
        IpAddr::V6(v6) => find(&V6, v6.into()).or_else(|| carried(v6)),
    }
}

fn find(ranges: &[(Class, Network)], address: IpAddr) -> Option<Special> {
    let (class, range) = ranges.iter().find(|(_, range)| range.contains(address))?;
    Some(Special { class: *class, range: *range })
}

fn carried(address: Ipv6Addr) -> Option<Special> {
    let (carrier, start) = CARRIERS.iter().find(|(carrier, _)| carrier.contains(address.into()))?;
    let shift = 96_u32.saturating_sub(u32::from(*start));
    let embedded = u32::try_from((address.to_bits() >> shift) & u128::from(u32::MAX)).ok()?;
    let inner = find(&V4, Ipv4Addr::from_bits(embedded).into())?;
    let IpAddr::V4(first) = inner.range.address() else { return None };
    let IpAddr::V6(prefix) = carrier.address() else { return None };
    let first = Ipv6Addr::from_bits(prefix.to_bits() | (u128::from(first.to_bits()) << shift));
    let range = Network::new(first.into(), start.saturating_add(inner.range.bits())).ok()?;
    Some(Special { class: inner.class, range })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(text: &str) -> Option<Class> {
        special(text.parse().unwrap()).map(|special| special.class)
    }

    #[test]
    fn the_special_ranges_are_known_at_both_ends() {
        for (texts, class) in [
            (&["169.254.169.254", "fd00:ec2::254", "168.63.129.16"][..], Class::Metadata),
            (&["127.0.0.1", "127.255.255.255", "::1"], Class::Loopback),
            (&["169.254.0.0", "169.254.255.255", "169.254.170.2", "fe80::1", "febf::1"], Class::LinkLocal),
            (&["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.1"], Class::Private),
            (
                &["100.64.0.0", "100.127.255.255", "fc00::", "fdff::1", "fd00:ec2::253", "fec0::1"],
                Class::Private,
            ),
            (&["64:ff9b:1::a00:1"], Class::Private),
            (&["224.0.0.1", "239.255.255.255", "ff02::1"], Class::Multicast),
            (&["0.0.0.0", "0.1.2.3", "::"], Class::Unspecified),
            (&["240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.170", "::7f00:1"], Class::Reserved),
            (&["2001::1", "2001:1ff::", "100::1"], Class::Reserved),
        ] {
            for text in texts {
                assert_eq!(class_of(text), Some(class), "{text}");
            }
        }
    }

    #[test]
    fn public_addresses_are_not_special() {
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "169.253.255.255",
            "192.0.2.1",
            "203.0.113.7",
            "2606:4700::1111",
            "2001:200::1",
            "2001:db8::1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert_eq!(class_of(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_in_another_is_found() {
        for (text, class, range) in [
            ("::ffff:127.0.0.1", Class::Loopback, "127.0.0.0/8"),
            ("::ffff:169.254.169.254", Class::Metadata, "169.254.169.254"),
            ("64:ff9b::169.254.169.254", Class::Metadata, "[64:ff9b::a9fe:a9fe]"),
            ("64:ff9b::10.1.2.3", Class::Private, "[64:ff9b::a00:0]/104"),
            ("2002:7f00:1::1", Class::Loopback, "[2002:7f00::]/24"),
            ("2002:a9fe:a9fe::1", Class::Metadata, "[2002:a9fe:a9fe::]/48"),
            ("::ffff:0:192.168.0.1", Class::Private, "[::ffff:0:c0a8:0]/112"),
        ] {
            let found = special(text.parse().unwrap()).unwrap();
            assert_eq!((found.class, found.range.to_string().as_str()), (class, range), "{text}");
        }
    }

    #[test]
    fn every_range_contains_what_it_is_named_after() {
        for (class, range) in V4.iter().chain(&V6) {
            let found = special(range.address()).unwrap();
            assert!(
                found.range == *range || range.covers(&found.range),
                "{class} {range} is hidden by {found:?}"
            );
            assert!(
                Network::new(range.address(), range.bits()).is_ok(),
                "{range} has bits beyond its prefix"
            );
        }
    }
}
