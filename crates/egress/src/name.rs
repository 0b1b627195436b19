//! Host names in the one form in which they are compared, sent and measured.

use std::{fmt, str::FromStr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// Longest name, in bytes without a trailing dot (RFC 1035 section 2.3.4: 255 on the wire).
pub const MAX_NAME_BYTES: usize = 253;

/// Longest label, in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Longest text that is looked at: names in other scripts shrink in no way that would need more.
const MAX_TEXT_BYTES: usize = 1024;

/// A host name: ASCII (A-labels, RFC 5890), lower case, no trailing dot, 1 to 253 bytes of labels of 1 to 63 bytes of
/// `a-z 0-9 - _`, not the spelling of an address. Equal names are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or a dot alone.
    #[error("the name is empty")]
    Empty,
    /// The whole is too long.
    #[error("the name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A label is empty or too long.
    #[error("a label of the name is empty or longer than {MAX_LABEL_BYTES} bytes")]
    Label,
    /// A character that no host name has, or one that IDNA does not allow there (UTS 46).
    #[error("the name has characters that no host name has")]
    Characters,
    /// The last label is a number, so resolvers would read the name as an IPv4 address.
    #[error("the name ends in a number, as addresses do")]
    Numeric,
    /// Right as a name, but not in its one form.
    #[error("the name is not in its normal form: lower case, A-labels, no dot at the end")]
    NotNormal,
}

impl Name {
    /// Takes a name that must be in its normal form already, as it is on the wire.
    ///
    /// # Errors
    /// [`NameError`], [`NameError::NotNormal`] for what [`FromStr`] would have changed.
    pub fn from_normal(text: &str) -> Result<Self, NameError> {
        let name: Self = text.parse()?;
        if name.0 == text { Ok(name) } else { Err(NameError::NotNormal) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is one or more labels below `parent`.
    pub fn is_below(&self, parent: &Self) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Brings a name into its normal form: IDNA (UTS 46, non-transitional), lower case, without the trailing dot.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(NameError::TooLong);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        // Underscores are kept by the empty list (services have them, RFC 8552); the check below is the stricter one.
        let ascii = Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| NameError::Characters)?;
        check(&ascii)?;
        Ok(Self(ascii.into_owned()))
    }
}

fn check(ascii: &str) -> Result<(), NameError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !ascii.split('.').all(|label| label.bytes().all(allowed)) {
        return Err(NameError::Characters);
    }
    if !ascii.split('.').all(|label| (1..=MAX_LABEL_BYTES).contains(&label.len())) {
        return Err(NameError::Label);
    }
    if ascii.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    let last = ascii.rsplit('.').next().unwrap_or(ascii);
    if is_number(last) { Err(NameError::Numeric) } else { Ok(()) }
}

/// What the parsers of `inet_aton(3)` and of URLs take for the last part of an IPv4 address.
fn is_number(label: &str) -> bool {
    let hexadecimal = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    label.bytes().all(|b| b.is_ascii_digit()) || label.strip_prefix("0x").is_some_and(hexadecimal)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, NameError> {
        text.parse().map(|name: Name| name.0)
    }

    #[test]
    fn a_name_has_one_form() {
        for (text, normal) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("faß.de", "xn--fa-hia.de"),
            ("_sip._tcp.example.org", "_sip._tcp.example.org"),
            ("r3---sn-x.example", "r3---sn-x.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(normal), "{text}");
        }
    }

    #[test]
    fn lengths_are_those_of_dns() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(longest.len(), 253);
        assert_eq!(parse(&longest).as_deref(), Ok(longest.as_str()));
        assert_eq!(parse(&format!("{longest}.")).as_deref(), Ok(longest.as_str()));
        assert_eq!(parse(&format!("{longest}b")), Err(NameError::TooLong));
        assert_eq!(parse(&format!("{}.{}", &longest[..127], &longest[..127])), Err(NameError::TooLong));
        assert_eq!(parse(&format!("a{label}.org")), Err(NameError::Label));
        assert_eq!(parse(&"a.".repeat(600)), Err(NameError::TooLong));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::Label),
            (".a", NameError::Label),
            ("a..", NameError::Label),
            ("a b", NameError::Characters),
            ("a/b", NameError::Characters),
            ("*.a", NameError::Characters),
            ("a\0.org", NameError::Characters),
            ("xn--\u{fffd}.org", NameError::Characters),
            ("xn--zzzzzzzzzz99999.org", NameError::Characters),
            ("127.0.0.1", NameError::Numeric),
            ("127.1", NameError::Numeric),
            ("2130706433", NameError::Numeric),
            ("0x7f000001", NameError::Numeric),
            ("10.0x0", NameError::Numeric),
            ("１２７.1", NameError::Numeric),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_name_on_the_wire_is_normal_already() {
        assert!(Name::from_normal("example.org").is_ok());
        for text in ["Example.org", "example.org.", "bücher.example"] {
            assert_eq!(Name::from_normal(text), Err(NameError::NotNormal), "{text}");
        }
    }

    #[test]
    fn below_means_by_labels() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        assert!(name("a.example.org").is_below(&name("example.org")));
        assert!(name("b.a.example.org").is_below(&name("example.org")));
        assert!(!name("example.org").is_below(&name("example.org")));
        assert!(!name("badexample.org").is_below(&name("example.org")));
    }

    proptest! {
        #[test]
        fn the_normal_form_is_stable(text in "\\PC{0,40}|[a-zA-Zü0-9_.-]{0,80}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(Name::from_normal(name.as_str()), Ok(name.clone()));
            }
        }
    }
}
