//! JSON whose members keep their order and whose numbers keep their digits, and its one compact ASCII form.
//!
//! Answers are signed over text. Reading a value and writing it again must not reorder, round or drop anything that a
//! client sent, which general readers do. Syntax is left to `serde_json`.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// How deep arrays and objects may be within each other. Each level is read once more.
const MAX_DEPTH: usize = 32;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Its digits.
    Number(String),
    /// What it says.
    String(String),
    /// Values in their order.
    Array(Vec<Json>),
    /// Members in their order, each name once.
    Object(Vec<(String, Json)>),
}

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// Too deep.
    #[error("arrays and objects are more than {MAX_DEPTH} deep")]
    TooDeep,
    /// Two members of one name: readers differ in which of them counts.
    #[error("the member {0:?} is there twice")]
    Twice(String),
}

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// [`JsonError`] as its variants say.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        Self::at_depth(serde_json::from_str(text)?, 0)
    }

    fn at_depth(value: &RawValue, depth: usize) -> Result<Self, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        let text = value.get().trim_ascii();
        match text.as_bytes().first() {
            Some(b'{') => {
                let Members(members) = serde_json::from_str(text)?;
                let mut object: Vec<(String, Self)> = Vec::with_capacity(members.len());
                let mut names = std::collections::HashSet::new();
                for (name, value) in members {
                    if !names.insert(name.clone()) {
                        return Err(JsonError::Twice(name));
                    }
                    object.push((name, Self::at_depth(value, depth + 1)?));
                }
                Ok(Self::Object(object))
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                items
                    .into_iter()
                    .map(|item| Self::at_depth(item, depth + 1))
                    .collect::<Result<_, _>>()
                    .map(Self::Array)
            }
            Some(b'"') => Ok(Self::String(serde_json::from_str(text)?)),
            Some(b't') => Ok(Self::Bool(true)),
            Some(b'f') => Ok(Self::Bool(false)),
            Some(b'n') => Ok(Self::Null),
            _ => Ok(Self::Number(text.to_owned())),
        }
    }

    /// The member of this name, if this is an object that has it.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        let Self::String(text) = self else { return None };
        Some(text)
    }

    /// The values, if this is an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        let Self::Array(values) = self else { return None };
        Some(values)
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(digits) => out.push_str(digits),
            Self::String(text) => write_string(text, out),
            Self::Array(values) => {
                out.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_string(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl fmt::Display for Json {
    /// Without white space, and in ASCII: all else is written `\uXXXX`, as Python's `json.dumps` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string can be written to");
                }
            }
        }
    }
    out.push('"');
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::at_depth(&raw, 0).map_err(de::Error::custom)
    }
}

/// An object's members in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(text: &str) -> String {
        Json::parse(text).unwrap().to_string()
    }

    #[test]
    fn order_digits_and_meaning_stay() {
        let text =
            " {\"z\" : 1.50, \"a\":[ 12345678901234567890123 , -0, 1E5,true,false,null ] ,\"\\u00e9\":\"\"} ";
        assert_eq!(
            again(text),
            r#"{"z":1.50,"a":[12345678901234567890123,-0,1E5,true,false,null],"\u00e9":""}"#
        );
        assert_eq!(again("{}"), "{}");
        assert_eq!(again("[ ]"), "[]");
    }

    /// What Python 3.11 prints for the same text with `json.dumps(x, separators=(",", ":"))`.
    #[test]
    fn strings_are_escaped_as_python_does() {
        let text = "\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f é 漢 😀 \\ud83d\\ude00\"";
        let python = r#""a\"\\/\b\f\n\r\t\u0001\u007f \u00e9 \u6f22 \ud83d\ude00 \ud83d\ude00""#;
        assert_eq!(again(text), python);
    }

    #[test]
    fn what_is_ambiguous_or_too_deep_is_refused() {
        assert!(matches!(Json::parse(r#"{"a":1,"\u0061":2}"#), Err(JsonError::Twice(name)) if name == "a"));
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(&nested(MAX_DEPTH + 1)).is_ok());
        assert!(matches!(Json::parse(&nested(MAX_DEPTH + 2)), Err(JsonError::TooDeep)));
        for text in ["", "{", "[1,]", "nul", "\"\\ud800\"", "01", "{\"a\":1}x"] {
            assert!(matches!(Json::parse(text), Err(JsonError::Syntax(_))), "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(|n| Json::Number(n.to_string())),
            any::<String>().prop_map(Json::String),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|members| Json::Object(members.into_iter().rev().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_by_us_and_by_others(value in values()) {
            let text = value.to_string();
            prop_assert!(text.is_ascii());
            prop_assert_eq!(&Json::parse(&text).unwrap(), &value);
            let other: serde_json::Value = serde_json::from_str(&text).unwrap();
            let spaced = serde_json::to_string_pretty(&other).unwrap();
            let again: serde_json::Value = serde_json::from_str(&Json::parse(&spaced).unwrap().to_string()).unwrap();
            prop_assert_eq!(again, other);
        }

        #[test]
        fn no_text_ends_the_reader(text in any::<String>()) {
            let _ = Json::parse(&text);
        }
    }
}
