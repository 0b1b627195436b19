//! Extended attributes: which of them an image has, and what they are for people.
//!
//! File capabilities and `user.*` are of the files and mean the same in the enclave. Other attributes are of the machine that
//! the files lay on: labels, lists of its users, the bookkeeping of container stores (decision 0045).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use erofs::Xattr;

use crate::{
    Digest,
    error::EntryError,
    limits::{MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES, MAX_XATTRS_BYTES},
    notes::{NoteKind, Notes},
    path::printable,
    tree::Tree,
};

/// What a program may do that it was not allowed to before (`capabilities(7)`).
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

const USER: &[u8] = b"user.";

/// Attributes of users that container stores write to say how the files are to be seen, which they are already.
const BOOKKEEPING: [&[u8]; 4] =
    [b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.", b"user.rootlesscontainers"];

/// What the machine says of every file, and nobody misses.
const LABEL: &[u8] = b"security.selinux";

/// Longest value that is shown as it is, in bytes.
const MAX_SHOWN_BYTES: usize = 256;

/// What becomes of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Keep,
    /// Not in the image, which is said.
    LeaveOut,
    /// Not in the image.
    Ignore,
}

fn policy(name: &[u8]) -> Policy {
    let is_bookkeeping = || BOOKKEEPING.iter().any(|prefix| name.starts_with(prefix));
    match name {
        CAPABILITY => Policy::Keep,
        LABEL => Policy::Ignore,
        _ if name.starts_with(USER) && name.len() > USER.len() && !is_bookkeeping() => Policy::Keep,
        _ => Policy::LeaveOut,
    }
}

/// Whether an image may have this attribute.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    policy(name) == Policy::Keep
}

/// The attributes of one file on their way in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Xattrs {
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    /// There were others.
    pub(crate) left_out: bool,
}

impl Xattrs {
    /// Adds an attribute, in the place of one of this name.
    pub(crate) fn set(&mut self, name: Vec<u8>, value: Vec<u8>) {
        match policy(&name) {
            Policy::Keep => drop(self.kept.insert(name, value)),
            Policy::LeaveOut => self.left_out = true,
            Policy::Ignore => {}
        }
    }

    /// Takes an attribute back.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.kept.remove(name);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many bytes of names and values there are.
    pub(crate) fn bytes(&self) -> usize {
        self.kept
            .iter()
            .fold(0, |sum: usize, (name, value)| sum.saturating_add(name.len()).saturating_add(value.len()))
    }

    /// All that are kept, in order of their names, if every one of them can be.
    pub(crate) fn into_checked(self) -> Result<Box<[Xattr]>, EntryError> {
        if self.bytes() > MAX_XATTRS_BYTES {
            return Err(EntryError::AttributesTooLong { found: self.bytes() });
        }
        self.kept
            .into_iter()
            .map(|(name, value)| match problem(&name, &value) {
                Some(problem) => Err(EntryError::Attribute { name: printable(&name), problem }),
                None => Ok(Xattr { name, value }),
            })
            .collect()
    }
}

/// Why Linux would not give a file this attribute, or would not run it then.
fn problem(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if name.contains(&0) {
        Some("has a NUL byte in its name")
    } else if name.len() > MAX_XATTR_NAME_BYTES {
        Some("has a name longer than 255 bytes")
    } else if value.len() > MAX_XATTR_VALUE_BYTES {
        Some("has a value longer than 65,535 bytes")
    } else if name == CAPABILITY && capability_version(value).is_none() {
        Some("is no set of capabilities")
    } else {
        None
    }
}

/// The version of a set of capabilities: its first four bytes have it and a flag, and it says the length (Linux,
/// `include/uapi/linux/capability.h`: `vfs_cap_data`).
fn capability_version(value: &[u8]) -> Option<u8> {
    let version = *value.get(3)?;
    (matches!((version, value.len()), (1, 12) | (2, 20) | (3, 24))).then_some(version)
}

/// Capabilities of a file in a directory of this machine without the user whose namespace they are for, since all files of a
/// directory belong to root in the image.
pub(crate) fn for_everybody(mut capability: Vec<u8>) -> Vec<u8> {
    if capability_version(&capability) == Some(3) {
        capability.truncate(20);
        if let Some(version) = capability.get_mut(3) {
            *version = 2;
        }
    }
    capability
}

/// Says which attributes an image cannot have whose format has none.
pub(crate) fn note_dropped(tree: &Tree, notes: &mut Notes) {
    for (path, _, inode) in tree.iter() {
        if inode.xattrs.iter().any(|xattr| xattr.name == CAPABILITY) {
            notes.add(NoteKind::CapabilitiesDropped, path);
        }
        if inode.xattrs.iter().any(|xattr| xattr.name != CAPABILITY) {
            notes.add(NoteKind::AttributesDropped, path);
        }
    }
}

/// A value for people: itself if it is plain text that does not begin like the other forms, else `0x` and hexadecimal digits,
/// or if it is long, its digest.
pub(crate) fn shown(value: &[u8]) -> String {
    let is_plain = || {
        let (hex, digest) = (value.starts_with(b"0x"), value.starts_with(b"sha256:"));
        !hex && !digest && value.iter().all(|b| matches!(b, b' '..=b'~'))
    };
    match std::str::from_utf8(value) {
        _ if value.len() > MAX_SHOWN_BYTES => Digest::of(value).to_string(),
        Ok(text) if is_plain() => text.to_owned(),
        _ => format!("0x{}", hex::encode(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[(&str, &[u8])]) -> Xattrs {
        let mut xattrs = Xattrs::default();
        for (name, value) in list {
            xattrs.set(name.as_bytes().to_vec(), value.to_vec());
        }
        xattrs
    }

    #[test]
    fn keeps_capabilities_and_what_users_set() {
        let all = set(&[("user.b", b"2"), ("security.capability", &[0; 20]), ("user.a", b"1")]);
        let names: Vec<_> = all.kept.keys().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, ["security.capability", "user.a", "user.b"]);
        assert!(!all.left_out);
        for name in [
            "trusted.overlay.opaque",
            "security.ima",
            "system.posix_acl_access",
            "user.overlay.origin",
            "user.containers.override_stat",
            "user.rootlesscontainers",
            "user.",
            "users.a",
            "",
        ] {
            let others = set(&[(name, b"x")]);
            assert_eq!((others.left_out, others.is_empty()), (true, true), "{name}");
        }
        let label = set(&[("security.selinux", b"system_u:object_r:bin_t:s0")]);
        assert_eq!((label.left_out, label.is_empty()), (false, true));
    }

    #[test]
    fn refuses_what_linux_would() {
        let refused = |name: &str, value: &[u8]| set(&[(name, value)]).into_checked().unwrap_err();
        assert!(matches!(refused("user.a\0b", b""), EntryError::Attribute { .. }));
        assert!(matches!(refused(&format!("user.{}", "x".repeat(251)), b""), EntryError::Attribute { .. }));
        assert!(matches!(refused("user.a", &[0; 65_536]), EntryError::Attribute { .. }));
        for capability in [&b""[..], b"\x01\0\0\x02", &[2; 19], &[2; 24], &[4; 20]] {
            assert!(matches!(refused("security.capability", capability), EntryError::Attribute { .. }));
        }
        let several = [("user.a", &[0; 65_535][..]), ("user.b", &[0; 65_535]), ("user.c", b"")];
        assert!(matches!(set(&several).into_checked().unwrap_err(), EntryError::AttributesTooLong { .. }));
        assert_eq!(set(&several[..1]).into_checked().unwrap().len(), 1);
    }

    #[test]
    fn capabilities_of_a_namespace_become_everybodys() {
        let of_a_namespace = [&[1, 0, 0, 3][..], &[7; 20]].concat();
        let expected = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        assert_eq!(for_everybody(of_a_namespace), expected);
        assert_eq!(for_everybody(expected.clone()), expected);
        assert_eq!(for_everybody(vec![3; 5]), [3; 5]);
    }

    #[test]
    fn different_values_are_shown_differently() {
        assert_eq!(shown(b"plain text"), "plain text");
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b"a\n"), "0x610a");
        assert_eq!(shown(b"0x610a"), "0x307836313061");
        assert_eq!(shown(b"sha256:00"), "0x7368613235363a3030");
        assert_eq!(shown(&[b'x'; 257]), Digest::of(&[b'x'; 257]).to_string());
    }
}
