//! Reads TOML, and says of a value of the wrong kind which key has it. The parser alone says where it stands.

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use crate::source::Mistake;

/// How the members begin that stand for a value and its place in the text.
const PLACE: &str = "$__";

/// Makes a value of a document.
pub(crate) fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    let wrong = |error: &toml::de::Error, key: Option<String>| {
        let message = match key {
            // Messages on unknown and missing keys name them.
            Some(key) if !names_its_key(error.message()) => format!("`{key}`: {}", plain(error.message())),
            _ => error.message().to_owned(),
        };
        Mistake::new(error.span().unwrap_or(0..0), message)
    };
    let document = toml::Deserializer::parse(text).map_err(|error| wrong(&error, None))?;
    serde_path_to_error::deserialize(document).map_err(|error| wrong(error.inner(), key(error.path())))
}

/// How the parser calls kinds of values, and how people do who write TOML.
const KINDS: &[(&str, &str)] = &[
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number, at least 0"),
    ("i64", "a whole number"),
    ("a boolean", "true or false"),
    ("path string", "a string"),
    ("a sequence", "a list, as [\"a\", \"b\"]"),
    ("a map", "a table, as { key = \"value\" }"),
];

/// The parser's message without the names of our own types.
fn plain(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let known = KINDS.iter().find(|(kind, _)| *kind == expected).map(|(_, text)| *text);
    let text = match known {
        Some(text) => text,
        None if expected.starts_with("struct ") => "a table",
        None => expected,
    };
    format!("{found}, expected {text}")
}

fn names_its_key(message: &str) -> bool {
    ["unknown field", "missing field", "duplicate field"].iter().any(|start| message.starts_with(start))
}

/// The key as a person would write it: elements of arrays have their array's.
fn key(path: &Path) -> Option<String> {
    let keys: Vec<&str> = path
        .iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } if !key.starts_with(PLACE) => Some(key.as_str()),
            _ => None,
        })
        .collect();
    (!keys.is_empty()).then(|| keys.join("."))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use toml::Spanned;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        app: Option<Spanned<App>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct App {
        #[expect(dead_code, reason = "only its kind is of interest")]
        timeout: Option<Spanned<u32>>,
        #[expect(dead_code, reason = "only its kind is of interest")]
        command: Option<Spanned<Vec<String>>>,
    }

    fn message(text: &str) -> String {
        let Err(mistake) = from_str::<Document>(text) else { panic!("{text} was taken") };
        mistake.message
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_by_its_key() {
        assert!(message("app.timeout = \"5\"").starts_with("`app.timeout`: invalid type: string"));
        assert!(message("[app]\ntimeout = -1").starts_with("`app.timeout`: invalid value: integer"));
        assert!(message("[app]\ncommand = [\"a\", 7]").starts_with("`app.command`: invalid type: integer"));
        assert!(message("app = 1").starts_with("`app`: invalid type: integer"));
    }

    /// A person was told to give a `struct RawImage` or a `u16`.
    #[test]
    fn what_is_expected_is_said_without_names_of_types() {
        let port = "invalid value: integer `99999`, expected u16";
        assert_eq!(plain(port), "invalid value: integer `99999`, expected a whole number from 0 to 65535");
        assert_eq!(message("app = 1"), "`app`: invalid type: integer `1`, expected a table");
        let command = message("[app]\ncommand = \"a\"");
        assert!(command.ends_with("expected a list, as [\"a\", \"b\"]"), "{command}");
        let other = "unknown variant `x`, expected `cpio` or `erofs`";
        assert_eq!(plain(other), other);
    }

    #[test]
    fn unknown_keys_and_broken_text_keep_their_messages() {
        assert!(message("[app]\ntimeut = 5").starts_with("unknown field `timeut`"));
        assert!(!message("[app").starts_with('`'));
        assert!(from_str::<Document>("[app]\ntimeout = 5").unwrap().app.is_some());
    }
}
