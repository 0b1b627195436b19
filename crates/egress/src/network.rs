//! Ranges of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A range of IPv4 or of IPv6 addresses: those that share the first bits (RFC 4632 section 3.1, RFC 4291 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is not a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Not an address where one has to be.
    #[error("not an address, or not one range as in `10.0.0.0/8` or `[2001:db8::]/32`")]
    Address,
    /// More bits than the address has, or not a number.
    #[error("the prefix length is 0 to 32 for IPv4 and 0 to 128 for IPv6")]
    Bits,
    /// Bits of the address beyond the prefix are set.
    #[error("the address has bits beyond its prefix: the range is {range}")]
    HostBits {
        /// The range that the address is in.
        range: Network,
    },
    /// An IPv6 address that only wraps an IPv4 address.
    #[error("write an IPv4 address as such, not as ::ffff:0:0/96")]
    Mapped,
}

impl Network {
    /// The range of this one address.
    pub fn of(address: IpAddr) -> Self {
        Self { address, bits: width(address) }
    }

    /// The addresses that share the first `bits` bits with `address`.
    ///
    /// # Errors
    /// Too many bits, bits of `address` beyond them, or an IPv4-mapped IPv6 address.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self, NetworkError> {
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(NetworkError::Mapped);
        }
        let kept = first_bits(address, bits).ok_or(NetworkError::Bits)?;
        let range = Self { address: kept, bits };
        if kept == address { Ok(range) } else { Err(NetworkError::HostBits { range }) }
    }

    /// A range known when the program is written.
    pub(crate) const fn v4(address: [u8; 4], bits: u8) -> Self {
        let [a, b, c, d] = address;
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    /// A range known when the program is written, by the first four groups of its address.
    pub(crate) const fn v6(groups: [u16; 8], bits: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = groups;
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), bits }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many first bits all addresses share.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `address` is one of the range. An IPv4 address is none of any IPv6 range.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && first_bits(address, self.bits) == Some(self.address)
    }

    /// Whether all of `other` lies in this range.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all but its first `bits` bits cleared; nothing when it has not that many.
fn first_bits(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let spare = u32::from(width(address).checked_sub(bits)?);
    Some(match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(spare).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(spare).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    })
}

impl fmt::Display for Network {
    /// `192.0.2.1`, `10.0.0.0/8`, `[2001:db8::1]`, `[2001:db8::]/32`: brackets as before a port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}")?,
            IpAddr::V6(v6) => write!(f, "[{v6}]")?,
        }
        if self.bits < width(self.address) { write!(f, "/{}", self.bits) } else { Ok(()) }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads what [`fmt::Display`] writes, an IPv6 address without brackets too, and a prefix of full length.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match bare {
            Some(inner) => IpAddr::V6(inner.parse().map_err(|_| NetworkError::Address)?),
            None => address.parse().map_err(|_| NetworkError::Address)?,
        };
        match bits {
            None => Self::new(address, width(address)),
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Self::new(address, digits.parse().map_err(|_| NetworkError::Bits)?)
            }
            Some(_) => Err(NetworkError::Bits),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_of_a_range_parses_to_it() {
        for text in ["192.0.2.1", "10.0.0.0/8", "0.0.0.0/0", "[2001:db8::]/32", "[::]/0", "[::1]"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("2001:db8::/32".parse::<Network>().unwrap().to_string(), "[2001:db8::]/32");
        assert_eq!("192.0.2.1/32".parse::<Network>().unwrap().to_string(), "192.0.2.1");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, error) in [
            ("", NetworkError::Address),
            ("10.0.0/8", NetworkError::Address),
            ("010.0.0.0/8", NetworkError::Address),
            ("[10.0.0.0]/8", NetworkError::Address),
            ("10.0.0.0/33", NetworkError::Bits),
            ("10.0.0.0/", NetworkError::Bits),
            ("10.0.0.0/+8", NetworkError::Bits),
            ("[::]/129", NetworkError::Bits),
            ("10.0.0.1/8", NetworkError::HostBits { range: Network::v4([10, 0, 0, 0], 8) }),
            (
                "[2001:db8::1]/32",
                NetworkError::HostBits { range: Network::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32) },
            ),
            ("::ffff:10.0.0.0/104", NetworkError::Mapped),
            ("fe80::1%eth0", NetworkError::Address),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_range_contains_what_it_covers(value: u32, bits in 0u8..=32, other: u32, longer in 0u8..=32) {
            let range = |value: u32, bits| {
                let address = first_bits(Ipv4Addr::from_bits(value).into(), bits).unwrap();
                Network::new(address, bits).unwrap()
            };
            let (wide, narrow) = (range(value, bits), range(other, longer));
            prop_assert!(wide.contains(Ipv4Addr::from_bits(value).into()));
            let ends = [narrow.address(), Ipv4Addr::from_bits(other | u32::MAX.checked_shr(longer.into()).unwrap_or(0)).into()];
            prop_assert_eq!(wide.covers(&narrow), ends.into_iter().all(|end| wide.contains(end)));
        }
    }
}
