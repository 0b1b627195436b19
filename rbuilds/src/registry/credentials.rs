//! Who the user is to a registry, from the files in which container engines keep it.
//!
//! Docker's `config.json`, which podman, buildah and skopeo write too, in files of other names: the program that
//! `credHelpers` names for a registry, else the one of `credsStore`, else what stands in `auths`.

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{error::RegistryError, helper};

/// The names under which Docker's own registry is kept.
const DEFAULT_REGISTRY_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// The same for programs that keep credentials.
const DEFAULT_SERVER: &str = "https://index.docker.io/v1/";
/// Largest file of credentials that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A user and password, or a token that stands for both.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) secret: String,
    /// Whether `secret` is a refresh token (OAuth 2.0, RFC 6749, 6) for the token server.
    pub(super) is_refresh_token: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for a registry: in `file`, or in the usual files if none is given.
pub(super) fn find(file: Option<&Path>, registry: &str) -> Result<Option<Credentials>, RegistryError> {
    let files = file.map_or_else(usual_files, |file| vec![file.to_owned()]);
    for path in files {
        let found = read(&path, registry);
        match found.map_err(|source| RegistryError::Credentials { path, source })? {
            Some(credentials) => return Ok(Some(credentials)),
            None => continue,
        }
    }
    Ok(None)
}

/// Where container engines keep credentials, in the order in which they look.
fn usual_files() -> Vec<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
    [
        folder("REGISTRY_AUTH_FILE"),
        folder("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &Path, registry: &str) -> io::Result<Option<Credentials>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let text = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => return Err(invalid("it is too long")),
        Ok(_) => fs::read(path)?,
    };
    // The parser's own words could quote a secret.
    let file: File = serde_json::from_slice(&text)
        .map_err(|_| invalid("it is not a JSON file as `docker login` writes it"))?;
    if let Some(known) = file.ask_helpers(registry)? {
        return Ok(Some(known));
    }
    let entry = file.auths.into_iter().find(|(key, _)| is_for(key, registry)).map(|(_, entry)| entry);
    entry
        .map_or(Ok(None), Entry::credentials)
        .map_err(|()| invalid("an `auth` in it is not base64 of USER:PASSWORD"))
}

/// Whether an entry's name, `host`, `https://host` or `https://host/v1/`, means this registry.
fn is_for(key: &str, registry: &str) -> bool {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let is_whole = matches!(path.trim_end_matches('/'), "" | "v1" | "v2");
    let is_same = |name: &str| name.eq_ignore_ascii_case(registry);
    is_whole && (is_same(host) || [host, registry].iter().all(|name| DEFAULT_REGISTRY_NAMES.contains(name)))
}

impl File {
    fn ask_helpers(&self, registry: &str) -> io::Result<Option<Credentials>> {
        let own = self.cred_helpers.iter().find(|(key, _)| is_for(key, registry));
        if let Some((key, name)) = own.filter(|(_, name)| !name.is_empty()) {
            return helper::ask(name, key);
        }
        match self.creds_store.as_deref().filter(|name| !name.is_empty()) {
            // What `docker login` without a name keeps the credentials under.
            Some(name) if DEFAULT_REGISTRY_NAMES.contains(&registry) => helper::ask(name, DEFAULT_SERVER),
            Some(name) => helper::ask(name, registry),
            None => Ok(None),
        }
    }
}

impl Entry {
    fn credentials(self) -> Result<Option<Credentials>, ()> {
        let (user, password) = match (self.username, self.password, self.auth) {
            (Some(user), Some(password), _) => (user, password),
            (_, _, Some(auth)) if !auth.is_empty() => decode(&auth).ok_or(())?,
            _ => (String::new(), String::new()),
        };
        Ok(match self.identitytoken.filter(|token| !token.is_empty()) {
            Some(secret) => Some(Credentials { user, secret, is_refresh_token: true }),
            None if user.is_empty() => None,
            None => Some(Credentials { user, secret: password, is_refresh_token: false }),
        })
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(text: &str, registry: &str) -> io::Result<Option<(String, String)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Ok(read(file.path(), registry)?.map(|found| (found.user, found.secret)))
    }

    fn pair(user: &str, secret: &str) -> Option<(String, String)> {
        Some((user.to_owned(), secret.to_owned()))
    }

    #[test]
    fn finds_an_entry_however_engines_wrote_its_name() {
        // "user:pa:ss" in base64.
        let file =
            |name: &str| format!(r#"{{"auths": {{"{name}": {{"auth": "dXNlcjpwYTpzcw=="}}}}, "other": 1}}"#);
        for name in
            ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v1/", "R.EXAMPLE:5000/"]
        {
            assert_eq!(look_up(&file(name), "r.example:5000").unwrap(), pair("user", "pa:ss"), "{name}");
        }
        assert_eq!(
            look_up(&file("https://index.docker.io/v1/"), "docker.io").unwrap(),
            pair("user", "pa:ss")
        );
        for name in ["r.example", "r.example:5000/team", "evil.example/r.example:5000", "xr.example:5000"] {
            assert_eq!(look_up(&file(name), "r.example:5000").unwrap(), None, "{name}");
        }
    }

    /// A helper that is missing shows which one would have been asked.
    #[test]
    fn the_registrys_own_helper_is_asked_before_the_store() {
        let file = r#"{"credHelpers": {"https://r.example": "own-x"}, "credsStore": "store-x",
                       "auths": {"r.example": {"auth": "dXNlcjpwYXNz"}, "plain.example": {}}}"#;
        let asked = |registry: &str| look_up(file, registry).unwrap_err().to_string();
        assert!(asked("r.example").contains("docker-credential-own-x"));
        assert!(asked("plain.example").contains("docker-credential-store-x"));
        let file = r#"{"credHelpers": {"r.example": ""}, "auths": {"r.example": {"auth": "dXNlcjpwYXNz"}}}"#;
        assert_eq!(look_up(file, "r.example").unwrap(), pair("user", "pass"));
    }

    #[test]
    fn an_entry_without_a_secret_is_none() {
        assert_eq!(look_up(r#"{"auths": {"r.example": {}}}"#, "r.example").unwrap(), None);
        assert_eq!(look_up("{}", "r.example").unwrap(), None);
        assert_eq!(read(Path::new("/nonexistent/config.json"), "r.example").unwrap(), None);
    }

    /// Whoever pastes an error message into a ticket must not paste a password.
    #[test]
    fn errors_and_debug_output_hold_no_secret() {
        let error = look_up(r#"{"auths": {"r.example": {"auth": "c2VjcmV0"}}}"#, "r.example").unwrap_err();
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
        let error = look_up(r#"{"auths": {"r.example": {"password": 12345678}}}"#, "r.example").unwrap_err();
        assert!(!error.to_string().contains("12345678"), "{error}");
        let known =
            Credentials { user: "u".to_owned(), secret: "hidden".to_owned(), is_refresh_token: false };
        assert!(!format!("{known:?}").contains("hidden"));
    }
}
