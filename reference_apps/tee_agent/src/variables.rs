//! Operator variables: what the operator may set in a running agent, and the rules that bind even the operator.
//!
//! Every variable is declared in the measured configuration. Flags go one way: hidden becomes public, mutable becomes immutable, never
//! back. An update is taken as a whole or not at all. Format: the agent's `README.md`.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest;

use crate::eth::{Address, OperatorKey, message_digest, recover};

/// Most variables in one update.
pub const MAX_ITEMS: usize = 64;
/// Longest value.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;
/// Longest name.
pub const MAX_NAME_BYTES: usize = 64;
/// The largest number of an update: the largest integer that every JSON reader keeps exact.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// A variable.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variable {
    /// What it is set to; empty when it is not.
    pub value: String,
    /// Whether anybody may read it.
    pub public: bool,
    /// Whether it stays as it is once it is not empty.
    pub immutable: bool,
    /// Whether the value came under a legacy signature, which can be replayed and is ambiguous.
    pub weak: bool,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.public { &self.value } else { "(hidden)" };
        f.debug_struct("Variable")
            .field("value", &value)
            .field("immutable", &self.immutable)
            .finish_non_exhaustive()
    }
}

/// What an update makes of one variable.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Its new value.
    pub value: String,
    /// The SHA-256 of the [sealed](crate::sealed) bytes that it came in, if it did: the operator signed those.
    pub sealed: Option<[u8; 32]>,
    /// Makes it public. False changes nothing.
    pub public: bool,
    /// Makes it immutable. False changes nothing.
    pub immutable: bool,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who may update whose variables.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The agent's name, from its configuration.
    pub tee_name: String,
    /// The address of the agent's key, which no other start has.
    pub agent: Address,
    /// Whose signature counts.
    pub operator: OperatorKey,
}

/// Why an update is not taken. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Not the operator's.
    #[error("Signature verification failed.")]
    Signature,
    /// An update with this number, or a higher one, was taken before.
    #[error("the number {number} was used: the next must be higher than {last}")]
    Replay {
        /// Of this update.
        number: u64,
        /// Of the last update that was taken.
        last: u64,
    },
    /// It stays as it is.
    #[error("Variable {name} is immutable and can only be set once.")]
    Immutable {
        /// Which.
        name: String,
    },
    /// It is not declared.
    #[error("Variable {name:?} is not declared in the agent's configuration.")]
    Unknown {
        /// Which.
        name: String,
    },
    /// Set twice in one update.
    #[error("variable {name:?} is there twice")]
    Twice {
        /// Which.
        name: String,
    },
    /// Too much or nothing.
    #[error(
        "an update has 1 to {MAX_ITEMS} variables with values of at most {MAX_VALUE_BYTES} bytes, and a number up to {MAX_NUMBER}"
    )]
    Size,
    /// Legacy signatures do not count (any more).
    #[error("legacy signatures are not accepted: {reason}")]
    Legacy {
        /// Why not.
        reason: &'static str,
    },
}

/// The variables of a running agent.
#[derive(Clone, Debug)]
pub struct Variables {
    declared: BTreeMap<String, Variable>,
    last: u64,
    legacy: bool,
}

impl Variables {
    /// With what is declared; `legacy` as in the configuration.
    pub fn new(declared: BTreeMap<String, Variable>, legacy: bool) -> Self {
        Self { declared, last: 0, legacy }
    }

    /// The variable of this name.
    pub fn by_name(&self, name: &str) -> Option<&Variable> {
        self.declared.get(name)
    }

    /// Its value if it is declared and set.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.by_name(name).map(|variable| &*variable.value).filter(|value| !value.is_empty())
    }

    /// Those that anybody may read.
    pub fn public(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.declared
            .iter()
            .filter(|(_, variable)| variable.public)
            .map(|(name, variable)| (&**name, variable))
    }

    /// The number of the last update that was taken; 0 before the first.
    pub fn last_number(&self) -> u64 {
        self.last
    }

    /// Whether a legacy signature would still count.
    pub fn takes_legacy(&self) -> bool {
        self.legacy && self.last == 0
    }

    /// Takes an update that the operator signed, all of it or nothing.
    ///
    /// # Errors
    /// [`UpdateError`] as its variants say.
    pub fn update(
        &mut self,
        authority: &Authority,
        number: u64,
        items: &[Item],
        signature: &[u8; 65],
    ) -> Result<(), UpdateError> {
        check_size(items)?;
        if !(1..=MAX_NUMBER).contains(&number) {
            return Err(UpdateError::Size);
        }
        let digest = message_digest(update_message(authority, number, items).as_bytes());
        if recover(&digest, signature) != Ok(authority.operator.address()) {
            return Err(UpdateError::Signature);
        }
        if number <= self.last {
            return Err(UpdateError::Replay { number, last: self.last });
        }
        self.apply(items, false)?;
        self.last = number;
        Ok(())
    }

    /// Takes an update in the form of the first deployments: one signature for each variable, over text in which values with
    /// `;` are ambiguous, without protection from replay. Flags are not signed there, so they are not taken. Refused
    /// unless the configuration allows it, and once an update of the sound form was taken, which it could undo.
    ///
    /// # Errors
    /// [`UpdateError`] as its variants say.
    pub fn update_legacy(
        &mut self,
        authority: &Authority,
        items: &[(Item, [u8; 64])],
    ) -> Result<(), UpdateError> {
        if !self.legacy {
            return Err(UpdateError::Legacy { reason: "the configuration does not allow them" });
        }
        if self.last > 0 {
            return Err(UpdateError::Legacy { reason: "an update with a number has been taken" });
        }
        let plain: Vec<Item> = items.iter().map(|(item, _)| item.clone()).collect();
        check_size(&plain)?;
        if plain.iter().any(|item| item.public || item.immutable || item.sealed.is_some()) {
            return Err(UpdateError::Legacy {
                reason: "they do not cover `public`, `immutable` and `sealed`",
            });
        }
        for (item, signature) in items {
            if !authority.operator.verifies(&legacy_digest(&authority.tee_name, item), signature) {
                return Err(UpdateError::Signature);
            }
        }
        self.apply(&plain, true)
    }

    fn apply(&mut self, items: &[Item], weak: bool) -> Result<(), UpdateError> {
        let mut changed: BTreeMap<&str, Variable> = BTreeMap::new();
        for item in items {
            let name = || item.name.clone();
            let now = self.declared.get(&item.name).ok_or_else(|| UpdateError::Unknown { name: name() })?;
            if now.immutable && !now.value.is_empty() {
                return Err(UpdateError::Immutable { name: name() });
            }
            let next = Variable {
                value: item.value.clone(),
                public: now.public || item.public,
                immutable: now.immutable || item.immutable,
                weak,
            };
            if changed.insert(&item.name, next).is_some() {
                return Err(UpdateError::Twice { name: name() });
            }
        }
        for (name, next) in changed {
            self.declared.insert(name.to_owned(), next);
        }
        Ok(())
    }
}

/// Whether a name can be declared: `a-z 0-9 _`, so that no text about it is ambiguous.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// What the operator signs (EIP-191) for an update. Values are there by their digests, so that what shows the text to be
/// signed does not show secrets.
pub fn update_message(authority: &Authority, number: u64, items: &[Item]) -> String {
    let mut text = format!(
        "tee_agent operator variables v2\nagent {}\nkey {}\nnumber {number}",
        authority.tee_name, authority.agent
    );
    for item in items {
        let visibility = if item.public { "public" } else { "hidden" };
        let mutability = if item.immutable { "immutable" } else { "mutable" };
        let (form, digest) = match &item.sealed {
            Some(digest) => ("sealed", hex::encode(digest)),
            None => ("value", hex::encode(digest::digest(&digest::SHA256, item.value.as_bytes()))),
        };
        text.push_str(&format!("\nset {} {visibility} {mutability} {form} {digest}", item.name));
    }
    text
}

/// The legacy form's digest: SHA-1 over SHA-256 over the text, because the library that made these signatures hashed
/// what it was given once more, and SHA-1 was its default.
fn legacy_digest(tee_name: &str, item: &Item) -> [u8; 20] {
    let text = format!("{tee_name};update_variables;{};{}", item.name, item.value);
    let inner = digest::digest(&digest::SHA256, text.as_bytes());
    let outer = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, inner.as_ref());
    let mut bytes = [0; 20];
    bytes.copy_from_slice(outer.as_ref());
    bytes
}

/// A name that cannot be declared is unknown, and is refused before it gets into a text that is signed line by line.
fn check_size(items: &[Item]) -> Result<(), UpdateError> {
    if !(1..=MAX_ITEMS).contains(&items.len()) || items.iter().any(|item| item.value.len() > MAX_VALUE_BYTES)
    {
        return Err(UpdateError::Size);
    }
    match items.iter().find(|item| !is_valid_name(&item.name)) {
        Some(item) => Err(UpdateError::Unknown { name: item.name.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
