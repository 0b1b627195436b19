//! Which files are watched and recorded, and what holds of them: the form that is measured and the one people write.

use std::{fmt, str::FromStr};

use ignore::gitignore::GitignoreBuilder;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use crate::{
    Egress, Nats,
    control::is_plain_path,
    nats::RawNats,
    source::{Mistake, mistake},
};

/// Seconds from one look at every file to the next, unless the manifest says otherwise.
pub const DEFAULT_SWEEP_S: u32 = 600;

/// Directories that are never watched, whatever the roots: views of the kernel's state, and the framework's own sockets and the
/// secrets of services. Ascending.
pub const NEVER_WATCHED: [&str; 4] = ["/dev/pts", "/proc", "/run/glasshouse", "/sys"];

/// Most roots of one image.
const MAX_ROOTS: usize = 64;
/// Most patterns, and most entries of the deny list.
const MAX_ENTRIES: usize = 1024;
/// Longest path or pattern, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

// Members stand in ascending order of their names, as the canonical form wants them.

/// What the file monitor does. An image without one records nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// What nobody may open or run, ascending by the written form, unique. Empty unless opening is held.
    pub deny: Vec<Denied>,
    /// Digests that records have beside BLAKE3, ascending, unique.
    pub digests: Vec<DigestKind>,
    /// Whether opening a file waits until it is recorded.
    pub enforce: Enforce,
    /// What is not watched: lines of a .gitignore file that lies in `/`, in their order, since later ones win.
    pub ignore: Vec<String>,
    /// Where events and records also go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<Nats>,
    /// Directories and files that are watched with all below, as the application sees them: ascending, none within
    /// another. Empty: only what is appended to streams is recorded.
    pub roots: Vec<String>,
    /// Seconds from one look at every file to the next; 0: never.
    pub sweep_s: u32,
}

/// Whether a program that opens or runs a watched file waits until its present content is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforce {
    /// It does not.
    Off,
    /// It does where the kernel can, which the monitor says at its start.
    Prefer,
    /// It does, and where the kernel cannot, the enclave does not start.
    Require,
}

/// A digest in records beside BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DigestKind {
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// SHA3-512 (FIPS 202).
    #[serde(rename = "sha3-512")]
    Sha3_512,
}

/// What nobody may open or run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A path and all that lies below it. Written as the path.
    Path(String),
    /// Any file with this BLAKE3 digest. Written `blake3:HEX`.
    Blake3([u8; 32]),
}

impl Monitor {
    /// Checks the rules that hold between values.
    pub(crate) fn check(&self, egress: Option<&Egress>) -> Result<(), &'static str> {
        if self.roots.len() > MAX_ROOTS || self.ignore.len().max(self.deny.len()) > MAX_ENTRIES {
            return Err("the monitor has more than 64 roots, or more than 1024 patterns or denied files");
        }
        if !self.roots.iter().all(|root| is_root(root)) {
            return Err("a root of the monitor is not an absolute path in its one spelling");
        }
        if !self.roots.is_sorted_by(|a, b| a < b) || nested(&self.roots).is_some() {
            return Err("the roots of the monitor are not ascending, or one lies within another");
        }
        if !self.ignore.iter().all(|line| is_pattern(line)) {
            return Err("a pattern of the monitor is not a line of a .gitignore file");
        }
        if !self.digests.is_sorted_by(|a, b| a < b) {
            return Err("the digests of the monitor are not ascending and unique");
        }
        if !self.deny.iter().map(Denied::to_string).is_sorted_by(|a, b| a < b) {
            return Err("what the monitor denies is not ascending and unique");
        }
        if self.enforce == Enforce::Off && !self.deny.is_empty() {
            return Err("the monitor denies files, but does not hold who opens them");
        }
        if self.enforce != Enforce::Off && self.roots.is_empty() {
            return Err("the monitor is to hold who opens files, but watches none");
        }
        self.nats.as_ref().map_or(Ok(()), |nats| nats.check(egress))
    }
}

fn is_root(path: &str) -> bool {
    path.len() <= MAX_TEXT_BYTES && is_plain_path(path)
}

/// The first of ascending paths that lies within another.
fn nested(roots: &[String]) -> Option<&String> {
    let within = |path: &str, root: &str| {
        root == "/" && path != "/" || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
    };
    roots.iter().find(|path| roots.iter().any(|root| within(path, root)))
}

/// Whether a line means something, and the same to every reader of these patterns.
fn is_pattern(line: &str) -> bool {
    let mut patterns = GitignoreBuilder::new("/");
    let one_line = line.len() <= MAX_TEXT_BYTES && !line.contains(['\n', '\r', '\0']);
    one_line
        && patterns.add_line(None, line).is_ok()
        && patterns.build().is_ok_and(|patterns| patterns.len() == 1)
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Blake3(digest) => {
                f.write_str("blake3:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl FromStr for Denied {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "allowed: an absolute path without \".\", \"..\" or a \"/\" at its end, or \"blake3:\" and \
                               64 lower-case hexadecimal digits";
        let Some(digits) = text.strip_prefix("blake3:") else {
            return if is_root(text) && text != "/" { Ok(Self::Path(text.to_owned())) } else { Err(ALLOWED) };
        };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 64 || !digits.bytes().all(hex) {
            return Err(ALLOWED);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).expect("hexadecimal digits are ASCII");
            *byte = u8::from_str_radix(pair, 16).expect("two hexadecimal digits are a byte");
        }
        Ok(Self::Blake3(digest))
    }
}

impl Serialize for Denied {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Denied {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `[monitor]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMonitor {
    roots: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    ignore: Vec<Spanned<String>>,
    enforce: Option<Spanned<RawEnforce>>,
    sweep: Option<Spanned<String>>,
    #[serde(default)]
    digests: Vec<DigestKind>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    nats: Option<Spanned<RawNats>>,
}

/// `true`, `false` or `"prefer"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "allowed: true, false and \"prefer\"")]
enum RawEnforce {
    Flag(bool),
    Word(String),
}

impl RawMonitor {
    pub(crate) fn check(this: Option<Self>, egress: Option<&Egress>) -> Result<Option<Monitor>, Mistake> {
        let Some(raw) = this else { return Ok(None) };
        let mut digests = raw.digests;
        digests.sort_unstable();
        digests.dedup();
        let monitor = Monitor {
            deny: denied(&raw.deny)?,
            digests,
            enforce: enforce(raw.enforce.as_ref())?,
            ignore: patterns(&raw.ignore)?,
            nats: RawNats::check(raw.nats, egress)?,
            roots: roots(raw.roots.get_ref())?,
            sweep_s: sweep(raw.sweep.as_ref())?,
        };
        if let Some(first) = raw.deny.first().filter(|_| monitor.enforce == Enforce::Off) {
            let text = "`monitor.deny` goes with `enforce = true` or \"prefer\": nobody is held otherwise";
            return Err(mistake(first, text));
        }
        let holds_nothing = monitor.enforce != Enforce::Off && monitor.roots.is_empty();
        if let Some(at) = raw.enforce.as_ref().filter(|_| holds_nothing) {
            return Err(mistake(at, "`monitor.enforce` needs `roots`: it holds who opens files below them"));
        }
        // What is left is the number of entries.
        monitor.check(egress).map_err(|text| mistake(&raw.roots, format!("`monitor`: {text}")))?;
        Ok(Some(monitor))
    }
}

fn roots(texts: &[Spanned<String>]) -> Result<Vec<String>, Mistake> {
    for text in texts {
        if !is_root(text.get_ref()) {
            let message = "allowed: an absolute path without \".\", \"..\" or a \"/\" at its end, as the application sees it";
            return Err(mistake(text, format!("`monitor.roots`: {:?}: {message}", text.get_ref())));
        }
    }
    let mut roots: Vec<String> = texts.iter().map(|text| text.get_ref().clone()).collect();
    roots.sort_unstable();
    roots.dedup();
    let inner = nested(&roots).and_then(|inner| texts.iter().find(|text| text.get_ref() == inner));
    match inner {
        Some(text) => {
            let message = format!("`monitor.roots`: {:?} lies within another root", text.get_ref());
            Err(mistake(text, message))
        }
        None => Ok(roots),
    }
}

fn patterns(texts: &[Spanned<String>]) -> Result<Vec<String>, Mistake> {
    let wrong = texts.iter().find(|text| !is_pattern(text.get_ref()));
    match wrong {
        Some(text) => {
            let message = "allowed: a line as in a .gitignore file that lies in /, no comment";
            Err(mistake(text, format!("`monitor.ignore`: {:?}: {message}", text.get_ref())))
        }
        None => Ok(texts.iter().map(|text| text.get_ref().clone()).collect()),
    }
}

fn denied(texts: &[Spanned<String>]) -> Result<Vec<Denied>, Mistake> {
    let mut denied = Vec::with_capacity(texts.len());
    for text in texts {
        let parsed: Denied = text
            .get_ref()
            .parse()
            .map_err(|e| mistake(text, format!("`monitor.deny`: {:?}: {e}", text.get_ref())))?;
        denied.push(parsed);
    }
    denied.sort_by_cached_key(Denied::to_string);
    denied.dedup();
    Ok(denied)
}

fn enforce(raw: Option<&Spanned<RawEnforce>>) -> Result<Enforce, Mistake> {
    match raw.map(|raw| (raw, raw.get_ref())) {
        None | Some((_, RawEnforce::Flag(false))) => Ok(Enforce::Off),
        Some((_, RawEnforce::Flag(true))) => Ok(Enforce::Require),
        Some((_, RawEnforce::Word(word))) if word == "prefer" => Ok(Enforce::Prefer),
        Some((at, RawEnforce::Word(word))) => {
            let text = format!("`monitor.enforce`: {word:?}: allowed: true, false and \"prefer\"");
            Err(mistake(at, text))
        }
    }
}

/// `30s`, `10m`, `2h` or `never`, in seconds.
fn sweep(raw: Option<&Spanned<String>>) -> Result<u32, Mistake> {
    let Some(raw) = raw else { return Ok(DEFAULT_SWEEP_S) };
    let text = raw.get_ref().as_str();
    if text == "never" {
        return Ok(0);
    }
    let unit = [("s", 1_u32), ("m", 60), ("h", 3600)]
        .into_iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit).map(|number| (number, seconds)));
    let seconds = unit
        .filter(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|(number, seconds)| number.parse::<u32>().ok()?.checked_mul(seconds));
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| {
        let allowed = "allowed: a number from 1 with s, m or h behind it, as in \"10m\", or \"never\"";
        mistake(raw, format!("`monitor.sweep`: {text:?}: {allowed}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn parse(keys: &str) -> Result<Monitor, String> {
        let text = format!("name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\n[monitor]\n{keys}");
        let manifest = Manifest::parse(&text).map_err(|e| e.to_string())?;
        Ok(manifest.resolve(&crate::ImageConfig::default()).unwrap().monitor.unwrap())
    }

    #[test]
    fn a_monitor_is_measured_in_one_order_and_spelling() {
        let monitor = parse(
            "roots = [\"/srv/data\", \"/app\", \"/app\"]\nignore = [\"*.log\", \"!/app/keep.log\"]\nenforce = \"prefer\"\n\
             sweep = \"2h\"\ndigests = [\"sha3-512\", \"sha256\"]\ndeny = [\"/app/x\", \"blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\"]",
        )
        .unwrap();
        let json = serde_json::to_string(&monitor).unwrap();
        assert_eq!(
            json,
            r#"{"deny":["/app/x","blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"],"digests":["sha256","sha3-512"],"enforce":"prefer","ignore":["*.log","!/app/keep.log"],"roots":["/app","/srv/data"],"sweep_s":7200}"#
        );
        assert_eq!(serde_json::from_str::<Monitor>(&json).unwrap(), monitor);
    }

    #[test]
    fn what_is_left_out_is_measured_as_the_default() {
        let monitor = parse("roots = []").unwrap();
        assert_eq!((monitor.enforce, monitor.sweep_s), (Enforce::Off, DEFAULT_SWEEP_S));
        assert!(monitor.deny.is_empty() && monitor.digests.is_empty() && monitor.ignore.is_empty());
        assert_eq!(
            parse("roots = [\"/\"]\nsweep = \"never\"\nenforce = true").unwrap().enforce,
            Enforce::Require
        );
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        for (keys, at, words) in [
            ("", "line 4, column 1", "missing field `roots`"),
            ("roots = [\"app\"]", "line 5, column 10", "absolute path"),
            ("roots = [\"/app/\"]", "line 5, column 10", "absolute path"),
            ("roots = [\"/app\", \"/app/x\"]", "line 5, column 18", "within another"),
            ("roots = [\"/\", \"/app\"]", "line 5, column 15", "within another"),
            ("roots = []\nignore = [\"# note\"]", "line 6, column 11", ".gitignore"),
            ("roots = []\nignore = [\"a{b\"]", "line 6, column 11", ".gitignore"),
            ("roots = []\nenforce = true", "line 6, column 11", "needs `roots`"),
            ("roots = []\nenforce = \"yes\"", "line 6, column 11", "\"prefer\""),
            ("roots = []\nenforce = 1", "line 6, column 11", "\"prefer\""),
            ("roots = []\nsweep = \"10\"", "line 6, column 9", "`monitor.sweep`"),
            ("roots = []\nsweep = \"0m\"", "line 6, column 9", "from 1"),
            ("roots = []\nsweep = \"+1m\"", "line 6, column 9", "from 1"),
            ("roots = []\nsweep = \"4294967295h\"", "line 6, column 9", "`monitor.sweep`"),
            ("roots = []\ndigests = [\"md5\"]", "line 6, column 12", "sha256"),
            ("roots = [\"/a\"]\ndeny = [\"/a/b\"]", "line 6, column 9", "goes with `enforce"),
            ("roots = [\"/a\"]\nenforce = true\ndeny = [\"blake3:AF\"]", "line 7, column 9", "64 lower-case"),
            ("roots = []\nwatch = 1", "line 6, column 1", "unknown field"),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(error.contains(at) && error.contains(words), "{keys}: {error}");
        }
    }

    /// A prefix test on text would let `/app` cover `/apple`.
    #[test]
    fn roots_are_compared_by_whole_components() {
        assert_eq!(
            parse("roots = [\"/app\", \"/apple\", \"/app-x\"]").unwrap().roots,
            ["/app", "/app-x", "/apple"]
        );
        let below = ["/app".to_owned(), "/app-x".to_owned(), "/app/x".to_owned()];
        assert_eq!(nested(&below), Some(&below[2]));
    }
}
