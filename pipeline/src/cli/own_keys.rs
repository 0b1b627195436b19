//! The keys of who sits here, in the order in which they are shown to an enclave.
//!
//! One that is named is the only one. Else the usual files, then whatever else the ssh agent has, as with ssh; a file's
//! key is taken from the agent if that has it, so that nobody types a passphrase again.

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
};

use channel::ssh::{Agent, AgentError, AgentKey, Identity, PrivateKey, PrivateKeyError, PublicKey};

use super::{Failure, show, terminal};

/// Most keys that are shown to one enclave. Each takes a connection and a document.
const MAX_OFFERED: usize = 6;

/// Keys that were not shown yet.
pub(super) struct OwnKeys {
    left: VecDeque<Candidate>,
    offered: usize,
    /// Why the first key that cannot be used cannot.
    trouble: Option<Failure>,
}

/// A key that can sign.
pub(super) struct OwnKey {
    pub(super) identity: Box<dyn Identity>,
    /// Where it is.
    place: String,
}

enum Candidate {
    File(PathBuf),
    Agent(Box<AgentKey>),
}

impl OwnKeys {
    /// # Errors
    /// When the one that is `named` is not there.
    pub(super) async fn of(named: Option<&Path>) -> Result<Self, Failure> {
        let (agents, silent) = match Agent::from_env() {
            Some(agent) => match agent.keys().await {
                Ok(keys) => (keys, None),
                Err(error) => (Vec::new(), Some(error)),
            },
            None => (Vec::new(), None),
        };
        if let Some(path) = named {
            return Ok(Self::just(the_one(path, agents, silent)?));
        }
        let (mut left, mut files) = (VecDeque::new(), Vec::new());
        for path in default_files() {
            let public = public_key_beside(&path);
            left.push_back(match agents.iter().find(|key| Some(key.public_key()) == public.as_ref()) {
                Some(key) => Candidate::Agent(Box::new(key.clone())),
                None => Candidate::File(path),
            });
            files.extend(public);
        }
        let others = agents.into_iter().filter(|key| !files.contains(key.public_key()));
        left.extend(others.map(|key| Candidate::Agent(Box::new(key))));
        Ok(Self { left, offered: 0, trouble: silent.map(Failure::channel) })
    }

    fn just(one: Candidate) -> Self {
        Self { left: VecDeque::from([one]), offered: 0, trouble: None }
    }

    /// The next key that can be used. May ask for a passphrase.
    pub(super) fn next(&mut self) -> Option<OwnKey> {
        if self.offered == MAX_OFFERED {
            return None;
        }
        while let Some(candidate) = self.left.pop_front() {
            match candidate.open() {
                Ok(key) => {
                    self.offered += 1;
                    return Some(key);
                }
                // A file says more than an agent that is gone.
                Err(failure) => match &self.trouble {
                    Some(Failure::Usage(_)) => {}
                    _ => self.trouble = Some(failure),
                },
            }
        }
        None
    }

    /// Why there was none.
    pub(super) fn none(self) -> Failure {
        self.trouble.unwrap_or_else(|| {
            let message = "there is no key to say who you are: give --identity, make one with ssh-keygen -t ed25519, or \
                           add one to the ssh agent";
            Failure::Usage(message.to_owned())
        })
    }
}

impl Candidate {
    fn open(self) -> Result<OwnKey, Failure> {
        match self {
            Self::Agent(key) => {
                let place = format!("the ssh agent's {}", key.comment());
                Ok(OwnKey { identity: key, place })
            }
            Self::File(path) => {
                let key = PrivateKey::load(&path, &mut || terminal::passphrase(&path));
                let key = key.map_err(|error| Failure::Usage(unusable(&path, &error)))?;
                Ok(OwnKey { identity: Box::new(key), place: path.display().to_string() })
            }
        }
    }
}

/// The key at `path`: the agent's, if it has it, which it must where only the public half is named.
fn the_one(path: &Path, agents: Vec<AgentKey>, silent: Option<AgentError>) -> Result<Candidate, Failure> {
    let public = public_key_beside(path);
    if let Some(key) = agents.into_iter().find(|key| Some(key.public_key()) == public.as_ref()) {
        return Ok(Candidate::Agent(Box::new(key)));
    }
    if path.extension().is_none_or(|extension| extension != "pub") {
        return Ok(Candidate::File(path.to_owned()));
    }
    let path = path.display();
    Err(match (public, silent) {
        (None, _) => Failure::Usage(format!("{path}: cannot read a public key in it")),
        (_, Some(error)) => Failure::channel(error),
        (Some(_), None) if Agent::from_env().is_none() => Failure::Usage(format!(
            "{path} is a public key, and there is no ssh agent (SSH_AUTH_SOCK) that would sign with it: name the private key"
        )),
        (Some(_), None) => {
            Failure::Usage(format!("{path}: the ssh agent does not have this key: ssh-add the private one"))
        }
    })
}

fn unusable(path: &Path, error: &PrivateKeyError) -> String {
    let text = show::chain(error);
    match error {
        // These name it themselves.
        PrivateKeyError::Read { .. } | PrivateKeyError::Permissions { .. } => text,
        _ => format!("{}: {text}", path.display()),
    }
}

/// The public half of a private key's file, or what a `.pub` file holds itself.
fn public_key_beside(path: &Path) -> Option<PublicKey> {
    let public = match path.extension() {
        Some(extension) if extension == "pub" => path.to_owned(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(".pub");
            PathBuf::from(name)
        }
    };
    PublicKey::from_line(&std::fs::read_to_string(public).ok()?).ok()
}

fn default_files() -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let folder = PathBuf::from(home).join(".ssh");
    let files = ["id_ed25519", "id_ecdsa"].map(|name| folder.join(name));
    files.into_iter().filter(|path| path.exists()).collect()
}

impl fmt::Display for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.place, self.identity.public_key().fingerprint())
    }
}
