//! Who may open the control channel, and what each may do there: the form that is measured and the one people write.

use std::{fmt, num::NonZeroU16, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use crate::{
    Attestation,
    source::{Mistake, check_port, mistake},
};

/// The vsock port of the control channel unless the manifest says otherwise.
pub const DEFAULT_CONTROL_PORT: u16 = 9002;

/// Most operators that one image lists.
const MAX_OPERATORS: usize = 256;
/// Longest name of an operator, in bytes.
const MAX_OPERATOR_NAME_BYTES: usize = 63;
/// Bytes of an Ed25519 public key (RFC 8032, section 5.1.5).
const ED25519_KEY_BYTES: usize = 32;
/// Bytes of an uncompressed point of P-256 (SEC 1, section 2.3.3).
const P256_POINT_BYTES: usize = 65;

// Members stand in ascending order of their names, as the canonical form wants them.

/// The control channel of an image. An image without one has no way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Who is admitted, at least one, ascending by name; names and keys are unique.
    pub operators: Vec<Operator>,
    /// The vsock port it listens on.
    pub port: NonZeroU16,
}

/// One key that the control channel admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// The public key.
    pub key: OperatorKey,
    /// What this key may do, at least one, ascending by the written form, unique.
    pub may: Vec<Capability>,
    /// Who it is, for people: 1 to 63 of `A-Z a-z 0-9 . _ @ -`.
    pub name: String,
}

/// A public key as OpenSSH writes it, without a comment: `ssh-ed25519 BASE64` or `ecdsa-sha2-nistp256 BASE64`
/// (RFC 4253, section 6.6; RFC 5656, section 3.1; RFC 8709, section 4).
///
/// Its shape is checked here; whether a point lies on its curve, by whoever verifies signatures with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperatorKey(String);

/// Something an operator may do.
///
/// Paths are absolute, as the application sees them, without `.`, `..` and empty components; what lies below a path is
/// allowed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Run a command. Written `exec`.
    Exec,
    /// Receive files at or below this path. Written `read:/path`.
    Read(String),
    /// Close the control channel for good. Written `seal`.
    Seal,
    /// Give services their secrets, and see which are given. Written `secrets`.
    Secrets,
    /// List and restart services, and read their output. Written `services`.
    Services,
    /// Open an interactive shell. Written `shell`.
    Shell,
    /// Send files to this path or below. Written `write:/path`.
    Write(String),
}

impl Control {
    /// Whether an operator may give services their secrets.
    pub fn takes_secrets(&self) -> bool {
        self.operators.iter().any(|operator| operator.may.contains(&Capability::Secrets))
    }

    /// Checks the rules that hold between values.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.operators.is_empty() || self.operators.len() > MAX_OPERATORS {
            return Err("the control channel has no operator, or more than 256");
        }
        if !self.operators.is_sorted_by(|a, b| a.name < b.name) {
            return Err("operators are not ascending by name and unique");
        }
        for (i, operator) in self.operators.iter().enumerate() {
            if !is_operator_name(&operator.name) {
                return Err("an operator's name is not 1 to 63 letters, digits, '.', '_', '@' and '-'");
            }
            if operator.may.is_empty() {
                return Err("an operator may do nothing");
            }
            if !operator.may.iter().map(Capability::to_string).is_sorted_by(|a, b| a < b) {
                return Err("what an operator may do is not ascending and unique");
            }
            if self.operators.iter().take(i).any(|other| other.key == operator.key) {
                return Err("two operators have the same key");
            }
        }
        Ok(())
    }
}

fn is_operator_name(name: &str) -> bool {
    (1..=MAX_OPERATOR_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b))
}

impl OperatorKey {
    /// The algorithm, a space and the base64 of the key's wire form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OperatorKey {
    type Err = &'static str;

    /// Reads a line of a `.pub` file; a comment behind the key is dropped.
    fn from_str(line: &str) -> Result<Self, Self::Err> {
        const OTHER: &str = "RSA keys, other curves and keys of security tokens (sk-) are not taken: allowed are ssh-ed25519 and \
                             ecdsa-sha2-nistp256; make one with ssh-keygen -t ed25519";
        const ALLOWED: &str = "allowed: the line of a .pub file, \"ssh-ed25519 AAAA...\" or \
                               \"ecdsa-sha2-nistp256 AAAA...\"; make one with ssh-keygen -t ed25519";
        let mut words = line.split_ascii_whitespace();
        let (Some(algorithm), Some(base64)) = (words.next(), words.next()) else { return Err(ALLOWED) };
        if ["ssh-rsa", "ssh-dss", "sk-", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
            .iter()
            .any(|other| algorithm.starts_with(other))
        {
            return Err(OTHER);
        }
        let blob = STANDARD.decode(base64).map_err(|_| ALLOWED)?;
        if !is_key(algorithm, &blob) {
            return Err(ALLOWED);
        }
        Ok(Self(format!("{algorithm} {base64}")))
    }
}

/// Whether `blob` has the shape of a public key of this algorithm.
fn is_key(algorithm: &str, blob: &[u8]) -> bool {
    let Some(rest) = field(blob).and_then(|(name, rest)| (name == algorithm.as_bytes()).then_some(rest))
    else {
        return false;
    };
    match algorithm {
        "ssh-ed25519" => {
            field(rest).is_some_and(|(key, end)| key.len() == ED25519_KEY_BYTES && end.is_empty())
        }
        "ecdsa-sha2-nistp256" => field(rest).is_some_and(|(curve, rest)| {
            let uncompressed = |point: &[u8]| point.len() == P256_POINT_BYTES && point.first() == Some(&4);
            curve == b"nistp256"
                && field(rest).is_some_and(|(point, end)| uncompressed(point) && end.is_empty())
        }),
        _ => false,
    }
}

/// The first `string` of RFC 4251, section 5, and what follows it.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

impl fmt::Display for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec => f.write_str("exec"),
            Self::Read(path) => write!(f, "read:{path}"),
            Self::Seal => f.write_str("seal"),
            Self::Secrets => f.write_str("secrets"),
            Self::Services => f.write_str("services"),
            Self::Shell => f.write_str("shell"),
            Self::Write(path) => write!(f, "write:{path}"),
        }
    }
}

impl FromStr for Capability {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = |path: &str| is_plain_path(path).then(|| path.to_owned());
        match text.split_once(':') {
            None => match text {
                "exec" => Some(Self::Exec),
                "seal" => Some(Self::Seal),
                "secrets" => Some(Self::Secrets),
                "services" => Some(Self::Services),
                "shell" => Some(Self::Shell),
                _ => None,
            },
            Some(("read", below)) => path(below).map(Self::Read),
            Some(("write", below)) => path(below).map(Self::Write),
            Some(_) => None,
        }
        .ok_or(
            "allowed: \"exec\", \"shell\", \"services\", \"secrets\", \"seal\", \"read:/path\" and \"write:/path\", \
             with an absolute path without \".\", \"..\" or a \"/\" at its end",
        )
    }
}

/// `/`, or `/a/b`: one spelling for one place.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let Some(below) = path.strip_prefix('/') else { return false };
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    below.is_empty() || below.split('/').all(plain)
}

impl Serialize for OperatorKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for OperatorKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `[control]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawControl {
    port: Option<Spanned<u16>>,
    #[serde(default)]
    operator: Vec<RawOperator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOperator {
    name: Spanned<String>,
    key: Spanned<String>,
    may: Spanned<Vec<String>>,
}

impl RawControl {
    pub(crate) fn check(
        this: Option<Spanned<Self>>,
        attestation: Option<&Attestation>,
    ) -> Result<Option<Control>, Mistake> {
        let Some(this) = this else { return Ok(None) };
        let span = this.span();
        let raw = this.into_inner();
        let port = match &raw.port {
            Some(port) => check_port("control.port", port)?,
            None => NonZeroU16::new(DEFAULT_CONTROL_PORT).expect("the default port is not 0"),
        };
        if attestation.is_some_and(|a| a.ports().any(|own| own == port)) {
            let message = format!("`control.port`: {port} is the attestation web server's");
            return Err(Mistake::new(span, message));
        }
        if !(1..=MAX_OPERATORS).contains(&raw.operator.len()) {
            let message = "`control`: 1 to 256 [[control.operator]] with `name`, `key` and `may`; leave [control] out \
                           for an image that nobody can enter";
            return Err(Mistake::new(span, message.to_owned()));
        }
        let mut operators: Vec<Operator> = Vec::with_capacity(raw.operator.len());
        for raw in raw.operator {
            let at = raw.name.clone();
            let operator = raw.check()?;
            let taken = |other: &&Operator| other.name == operator.name || other.key == operator.key;
            if let Some(other) = operators.iter().find(taken) {
                let text = format!("`control.operator`: {:?} has this name or key already", other.name);
                return Err(mistake(&at, text));
            }
            operators.push(operator);
        }
        operators.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(Control { operators, port }))
    }
}

impl RawOperator {
    fn check(self) -> Result<Operator, Mistake> {
        if !is_operator_name(self.name.get_ref()) {
            let text = "`control.operator.name`: allowed: 1 to 63 letters, digits, `.`, `_`, `@` and `-`";
            return Err(mistake(&self.name, text));
        }
        let key = self.key.get_ref().parse();
        let key = key.map_err(|allowed| mistake(&self.key, format!("`control.operator.key`: {allowed}")))?;
        let mut may = Vec::with_capacity(self.may.get_ref().len());
        for text in self.may.get_ref() {
            let capability: Capability = text.parse().map_err(|allowed| {
                mistake(&self.may, format!("`control.operator.may`: {text:?}: {allowed}"))
            })?;
            may.push(capability);
        }
        if may.is_empty() {
            return Err(mistake(&self.may, "`control.operator.may`: at least one, such as \"exec\""));
        }
        may.sort_by_key(Capability::to_string);
        may.dedup();
        Ok(Operator { key, may, name: self.name.into_inner() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn a_line_of_a_pub_file_is_a_key_and_its_comment_is_dropped() {
        let key: OperatorKey = format!("{ED25519}  alice@laptop and more\n").parse().unwrap();
        assert_eq!(key.as_str(), ED25519);
    }

    #[test]
    fn a_key_of_another_shape_is_refused() {
        let base64 = ED25519.split_once(' ').unwrap().1;
        let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ==";
        let trailing =
            format!("ssh-ed25519 {}", STANDARD.encode([STANDARD.decode(base64).unwrap(), vec![0]].concat()));
        let hybrid = STANDARD.encode(
            [b"\0\0\0\x13ecdsa-sha2-nistp256\0\0\0\x08nistp256\0\0\0\x41\x06" as &[u8], &[7; 64]].concat(),
        );
        let cut = &ED25519[..ED25519.len() - 4];
        for line in [
            "",
            "ssh-ed25519",
            base64,
            rsa,
            &trailing,
            cut,
            &format!("ecdsa-sha2-nistp256 {base64}"),
            &format!("ecdsa-sha2-nistp256 {hybrid}"),
            &ED25519.replace("AAAAC3", "!!!!C3"),
        ] {
            assert!(line.parse::<OperatorKey>().unwrap_err().contains("ssh-keygen"), "{line}");
        }
        for line in [rsa, "sk-ssh-ed25519@openssh.com AAAA", "ecdsa-sha2-nistp384 AAAA"] {
            assert!(line.parse::<OperatorKey>().unwrap_err().contains("are not taken"), "{line}");
        }
    }

    /// `read:/a/` or `read:/a/../b` would be second spellings, and a prefix test on text would let `/ab` pass for `/a`.
    #[test]
    fn a_path_has_one_spelling() {
        for good in ["read:/", "write:/srv/data", "read:/a:b", "exec", "seal"] {
            assert_eq!(good.parse::<Capability>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "Exec",
            "exec:",
            "read",
            "read:",
            "read:srv",
            "read:/a/",
            "read:/a//b",
            "read:/a/../b",
            "write:/.",
        ] {
            assert!(bad.parse::<Capability>().unwrap_err().contains("write:/path"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(ssh-ed25519 )?\\PC{0,80}", verb in "(read|write)?:?[/.a]{0,8}") {
            if let Ok(key) = text.parse::<OperatorKey>() {
                prop_assert_eq!(key.to_string().parse(), Ok(key));
            }
            if let Ok(capability) = verb.parse::<Capability>() {
                prop_assert_eq!(capability.to_string(), verb);
            }
        }
    }
}
