//! Logging in: what a registry asks for, and the tokens of its token server.
//!
//! `WWW-Authenticate` (RFC 9110, 11.6.1) with the schemes Basic (RFC 7617) and Bearer (RFC 6750); tokens as the
//! distribution project's "Token Authentication" describes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::credentials::Credentials;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What a token server answers.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl TokenAnswer {
    pub(super) fn into_token(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

impl Credentials {
    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.secret)))
    }
}

/// The challenge of these headers that is answered: a token is worth less to a thief than a password.
pub(super) fn choose<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let mut all: Vec<Challenge> = headers.flat_map(challenges).collect();
    all.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    all.into_iter().next()
}

/// The challenges of one header that are understood.
fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = take_word(rest);
        if word.is_empty() {
            break;
        }
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = take_value(value);
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            found.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found.into_iter().filter_map(|(scheme, parameters)| understand(&scheme, parameters)).collect()
}

fn understand(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let value = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
        }),
        _ => None,
    }
}

fn take_word(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = take_word(text);
        return (word.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// A query or form of these members (RFC 3986, 2.3 names what needs no escape).
pub(super) fn form(members: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|b| match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(b).to_string()
                }
                b => format!("%{b:02X}"),
            })
            .collect()
    };
    members.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) }
    }

    #[test]
    fn reads_challenges_as_registries_write_them() {
        let header = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        let expected =
            bearer("https://auth.example/token", Some("r.example"), Some("repository:a/b:pull,push"));
        assert_eq!(challenges(header), [expected]);
        assert_eq!(challenges(r#"Basic realm="a \"quoted\" one""#), [Challenge::Basic]);
        assert_eq!(challenges("Negotiate"), []);
        assert_eq!(challenges("Bearer"), []);
    }

    #[test]
    fn prefers_a_token_to_a_password() {
        for headers in [
            &[r#"Basic realm="x", Bearer realm="https://a.example/""#][..],
            &[r#"BASIC realm="x""#, r#"bearer realm="https://a.example/""#],
        ] {
            assert_eq!(choose(headers.iter().copied()), Some(bearer("https://a.example/", None, None)));
        }
    }

    #[test]
    fn escapes_what_a_query_cannot_hold() {
        assert_eq!(form(&[("scope", "a/b:pull"), ("s", "x&y=ä")]), "scope=a%2Fb%3Apull&s=x%26y%3D%C3%A4");
    }

    proptest! {
        #[test]
        fn never_panics(header in any::<String>()) {
            let _ = challenges(&header);
        }

        #[test]
        fn reads_any_quoted_realm(realm in any::<String>()) {
            let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(challenges(&format!("Bearer realm=\"{escaped}\"")), [bearer(&realm, None, None)]);
        }
    }
}
