//! Finds the enclave, what it has to be, and the operator's key.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use channel::ssh::{Agent, Identity, PrivateKey, PublicKey};
use transport::{Addr, Cid, Port};

use super::{Client, Failure, config, terminal};
use crate::{
    client::{self, Connection},
    expected::Expected,
};

/// Opens the channel that the options describe, and sends `first` with the proof of who is asking.
pub(super) async fn connect(client: &Client, first: &[u8]) -> Result<Connection, Failure> {
    let client = config::complete(client)?;
    let addr = match (&client.addr, client.cid) {
        (Some(addr), _) => addr.clone(),
        (None, Some(cid)) => Addr::Vsock { cid: Cid(cid), port: Port(client.port) },
        (None, None) => {
            let message =
                "say where the enclave is: --addr ADDR, --cid CID, PIPELINE_ADDR or `addr` in the file";
            return Err(Failure::Usage(message.to_owned()));
        }
    };
    let usage = |error: &dyn std::error::Error| Failure::Usage(super::show::chain(error));
    let expected = client.expected.read().map_err(|error| usage(&error))?;
    let expected = Expected::try_from(expected).map_err(|error| usage(&error))?;
    let identity = identity(client.identity.as_deref()).await?;
    let timeout = Duration::from_secs(client.connect_timeout);
    Ok(client::connect(&addr, &expected, Some(&*identity), first, timeout).await?)
}

async fn identity(named: Option<&Path>) -> Result<Box<dyn Identity>, Failure> {
    let files = match named {
        Some(path) => vec![path.to_owned()],
        None => default_files(),
    };
    if let Some(path) = files.first() {
        if let Some(key) = from_agent(path).await {
            return Ok(key);
        }
        if path.extension().is_some_and(|extension| extension == "pub") {
            return Err(Failure::Usage(format!("{}: the ssh agent does not have this key", path.display())));
        }
        let mut ask = || terminal::passphrase(path);
        let key = PrivateKey::load(path, &mut ask);
        return Ok(Box::new(key.map_err(|error| {
            Failure::Usage(format!("{}: {}", path.display(), super::show::chain(&error)))
        })?));
    }
    let keys = match Agent::from_env() {
        Some(agent) => agent.keys().await.map_err(Failure::channel)?,
        None => Vec::new(),
    };
    match keys.into_iter().next() {
        Some(key) => Ok(Box::new(key)),
        None => {
            let message =
                "there is no key to say who you are: give --identity, or make one with ssh-keygen -t ed25519";
            Err(Failure::Usage(message.to_owned()))
        }
    }
}

/// The key in the agent that belongs to a private key's file, so that nobody types its passphrase again.
async fn from_agent(path: &Path) -> Option<Box<dyn Identity>> {
    let agent = Agent::from_env()?;
    let public = match path.extension() {
        Some(extension) if extension == "pub" => path.to_owned(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(".pub");
            PathBuf::from(name)
        }
    };
    let wanted = PublicKey::from_line(&std::fs::read_to_string(public).ok()?).ok()?;
    let key = agent.keys().await.ok()?.into_iter().find(|key| *key.public_key() == wanted)?;
    Some(Box::new(key))
}

fn default_files() -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let folder = PathBuf::from(home).join(".ssh");
    let files = ["id_ed25519", "id_ecdsa"].map(|name| folder.join(name));
    files.into_iter().filter(|path| path.exists()).collect()
}
