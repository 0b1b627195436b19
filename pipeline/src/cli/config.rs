//! Defaults from a file, below what flags and environment say.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use transport::Addr;

use super::{Client, Failure};

/// `pipeline.toml`. Every key is one of the options with the same name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    addr: Option<String>,
    identity: Option<PathBuf>,
    image: Option<PathBuf>,
    reference: Option<PathBuf>,
    root: Option<PathBuf>,
}

/// Adds what the configuration file says to what was not said otherwise.
pub(super) fn complete(client: &Client) -> Result<Client, Failure> {
    let mut client = client.clone();
    let Some(file) = read(client.config.as_deref())? else { return Ok(client) };
    if client.addr.is_none() && client.cid.is_none() {
        let parse =
            |text: String| text.parse::<Addr>().map_err(|error| Failure::Usage(format!("addr: {error}")));
        client.addr = file.addr.map(parse).transpose()?;
    }
    client.identity = client.identity.or(file.identity);
    let expected = &mut client.expected;
    // Whoever says on the command line which image it has to be does not mean another one as well.
    if !expected.says_something() {
        (expected.image, expected.reference) = (file.image, file.reference);
    }
    expected.root = expected.root.take().or(file.root);
    Ok(client)
}

fn read(named: Option<&Path>) -> Result<Option<File>, Failure> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => match home("XDG_CONFIG_HOME", ".config") {
            Some(folder) => folder.join("glasshouse/pipeline.toml"),
            None => return Ok(None),
        },
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Usage(format!("{}: {error}", path.display()))),
    };
    parse(&text).map(Some).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn parse(text: &str) -> Result<File, toml::de::Error> {
    toml::from_str(text)
}

fn home(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| Some(set("HOME")?.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expected::ExpectedArgs;

    fn with_file(text: &str, client: Client) -> Result<Client, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.toml");
        std::fs::write(&path, text).unwrap();
        complete(&Client { config: Some(path), ..client })
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "addr = \"unix:/a\"\nidentity = \"/key\"\nimage = \"/app.eif\"\n";
        let taken = with_file(file, Client::default()).unwrap();
        assert_eq!(taken.addr.unwrap().to_string(), "unix:/a");
        assert_eq!(taken.identity, Some("/key".into()));
        assert_eq!(taken.expected.image, Some("/app.eif".into()));
        let said = Client {
            cid: Some(16),
            identity: Some("/mine".into()),
            expected: ExpectedArgs { any_image: true, ..ExpectedArgs::default() },
            ..Client::default()
        };
        let taken = with_file(file, said).unwrap();
        assert!(taken.addr.is_none() && taken.expected.image.is_none());
        assert_eq!(taken.identity, Some("/mine".into()));
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        let refused = with_file("adr = \"unix:/a\"", Client::default()).unwrap_err();
        assert!(refused.to_string().contains("adr"), "{refused}");
        assert!(with_file("addr = \"nowhere\"", Client::default()).is_err());
    }
}
