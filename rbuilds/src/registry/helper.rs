//! Programs that keep credentials: `docker-credential-NAME get`, as `credHelpers` and `credsStore` of Docker's
//! `config.json` name them (the docker-credential-helpers project's protocol).

use std::{io, process::Command, time::Duration};

use serde::Deserialize;

use super::credentials::Credentials;
use crate::dialogue::hold;

/// How long a helper may take. One may ask the user to unlock a keyring, or a cloud's login service for a token.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer of a helper, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// The user that stands for "the secret is a refresh token".
const TOKEN_USER: &str = "<token>";
/// What helpers say of a registry that they do not know.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

/// Asks a helper for the credentials it keeps under `server`. `None` if it keeps none.
pub(super) fn ask(name: &str, server: &str) -> io::Result<Option<Credentials>> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err(io::Error::other(format!(
            "it names a credential helper that is no program's name: {name:?}"
        )));
    }
    ask_program(&format!("docker-credential-{name}"), server, TIMEOUT)
}

fn ask_program(program: &str, server: &str, timeout: Duration) -> io::Result<Option<Credentials>> {
    let failed = |why: String| io::Error::other(format!("{program}, which it names, {why}"));
    let answer = hold(Command::new(program).arg("get"), server.as_bytes(), MAX_ANSWER_BYTES, timeout)
        .map_err(|e| failed(format!("cannot be run: {e}")))?
        .ok_or_else(|| failed(format!("gave no answer within {} s", timeout.as_secs())))?;
    if !answer.status.success() {
        // Only this sentence is looked for, and nothing of the answer is shown: it could hold a secret.
        return match String::from_utf8_lossy(&answer.stdout).contains(NOT_FOUND) {
            true => Ok(None),
            false => Err(failed(format!("failed ({})", answer.status))),
        };
    }
    let kept: Kept = serde_json::from_slice(&answer.stdout)
        .map_err(|_| failed("answered something else than a user and a secret".to_owned()))?;
    let is_refresh_token = kept.username == TOKEN_USER;
    let known = Credentials { user: kept.username, secret: kept.secret, is_refresh_token };
    Ok(Some(known).filter(|known| !known.secret.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A helper that runs this script.
    fn ask_script(script: &str, timeout: Duration) -> io::Result<Option<Credentials>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        // Written by another process: what this one has open for writing, a process that another test starts at that moment
        // has open too, and what is open for writing cannot be run.
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(&path);
        let text = format!("#!/bin/sh\n{script}\n");
        let written = hold(&mut install, text.as_bytes(), 0, TIMEOUT).unwrap().unwrap();
        assert!(written.status.success());
        ask_program(path.to_str().unwrap(), "r.example:5000", timeout)
    }

    fn answer_to(script: &str) -> io::Result<Option<Credentials>> {
        ask_script(script, TIMEOUT)
    }

    #[test]
    fn a_helper_gets_the_registry_and_gives_user_and_secret() {
        let script = r#"[ "$1" = get ] && printf '{"ServerURL":"x","Username":"%s","Secret":"s"}' "$(cat)""#;
        let expected = Credentials {
            user: "r.example:5000".to_owned(),
            secret: "s".to_owned(),
            is_refresh_token: false,
        };
        assert_eq!(answer_to(script).unwrap(), Some(expected));
        let token = answer_to(r#"echo '{"Username":"<token>","Secret":"t"}'"#).unwrap().unwrap();
        assert!(token.is_refresh_token);
    }

    #[test]
    fn a_helper_that_knows_nothing_is_no_error_and_any_other_failure_is() {
        assert_eq!(answer_to("echo credentials not found in native keychain; exit 1").unwrap(), None);
        assert_eq!(answer_to(r#"echo '{"Username":"","Secret":""}'"#).unwrap(), None);
        for (script, expected) in [
            ("echo hidden; exit 1", "failed (exit status: 1)"),
            ("echo hidden", "something else than a user and a secret"),
            ("head -c 1000000 /dev/zero", "something else"),
        ] {
            let said = answer_to(script).unwrap_err().to_string();
            assert!(said.contains(expected) && !said.contains("hidden"), "{said}");
        }
        let said = ask_script("exec sleep 600", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(said.contains("no answer"), "{said}");
    }

    #[test]
    fn a_helper_is_named_not_pathed() {
        for name in ["", "../x", "a/b", "a b", "a;b"] {
            assert!(ask(name, "r.example").unwrap_err().to_string().contains("no program's name"), "{name}");
        }
        let said = ask("surely-not-installed", "r.example").unwrap_err().to_string();
        assert!(
            said.contains("docker-credential-surely-not-installed") && said.contains("cannot be run"),
            "{said}"
        );
    }
}
