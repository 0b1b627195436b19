//! Finds the ids of a user in the text of `passwd(5)` and `group(5)`.
//!
//! A pure function of three texts; [`crate::users`] reads the files from the image.

/// As whom a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, ascending.
    pub(crate) groups: Vec<u32>,
}

/// Why a user cannot be resolved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// There is no such user.
    #[error("the image's /etc/passwd has no user {name:?}")]
    NoUser {
        /// The name.
        name: String,
    },
    /// There is no such group.
    #[error("the image's /etc/group has no group {name:?}")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The highest number means "no change" to the kernel.
    #[error("{id} is not a user or group id")]
    NotAnId {
        /// What stands where a number should.
        id: String,
    },
}

/// What `passwd(5)` says of a user beside ids; empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub name: String,
    /// The home directory.
    pub home: String,
    /// The shell.
    pub shell: String,
}

/// Name, home and shell of the first user with this id.
pub(crate) fn login(uid: u32, passwd: &str) -> Login {
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, number, _, _, home, shell] = fields[..] else { return None };
        let login = || Login { name: name.to_owned(), home: home.to_owned(), shell: shell.to_owned() };
        (id(number) == Some(uid)).then(login)
    });
    found.unwrap_or_default()
}

/// Resolves `name`, `uid`, `name:group` or `uid:gid`, or any mix of names and numbers.
///
/// A number needs no entry; without one its group is 0. Supplementary groups are those that name the user, and none if
/// a group is given: the same rules as container runtimes have.
pub(crate) fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, AccountError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let account = match number(user)? {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid).unwrap_or(Account { name: "", uid, gid: 0 }),
        None => accounts(passwd)
            .find(|a| a.name == user)
            .ok_or_else(|| AccountError::NoUser { name: user.to_owned() })?,
    };
    let Some(wanted) = wanted_group else {
        let mut supplementary: Vec<u32> = groups(group)
            .filter(|g| g.has_member(account.name))
            .map(|g| g.gid)
            .filter(|g| *g != account.gid)
            .collect();
        supplementary.sort_unstable();
        supplementary.dedup();
        return Ok(Identity { uid: account.uid, gid: account.gid, groups: supplementary });
    };
    let gid = match number(wanted)? {
        Some(gid) => gid,
        None => groups(group)
            .find(|g| g.name == wanted)
            .map(|g| g.gid)
            .ok_or_else(|| AccountError::NoGroup { name: wanted.to_owned() })?,
    };
    Ok(Identity { uid: account.uid, gid, groups: Vec::new() })
}

/// The id that a word of digits is; `None` for a name.
fn number(word: &str) -> Result<Option<u32>, AccountError> {
    if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match word.parse() {
        Ok(u32::MAX) | Err(_) => Err(AccountError::NotAnId { id: word.to_owned() }),
        Ok(id) => Ok(Some(id)),
    }
}

#[derive(Clone, Copy)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// The entries of a passwd file; lines that are none are passed over, as the C library does.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Account { name, uid: id(fields.next()?)?, gid: id(fields.next()?)? })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Group<'_> {
    fn has_member(&self, user: &str) -> bool {
        !user.is_empty() && self.members.split(',').any(|member| member == user)
    }
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Group { name, gid: id(fields.next()?)?, members: fields.next().unwrap_or_default() })
    })
}

fn id(field: &str) -> Option<u32> {
    field.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken:x:one:2::/:\n\
        www-data:x:33:33::/var/www:/usr/sbin/nologin\nhigh:x:4294967295:1::/:\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\ntls:x:101:www-data,other\nlog:x:4:www-data\nempty:x:5\n";

    fn found(user: &str) -> (u32, u32, Vec<u32>) {
        let identity = resolve(user, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn resolves_every_form() {
        assert_eq!(found("root"), (0, 0, vec![]));
        assert_eq!(found("www-data"), (33, 33, vec![4, 101]));
        assert_eq!(found("33"), (33, 33, vec![4, 101]));
        assert_eq!(found("www-data:tls"), (33, 101, vec![]));
        assert_eq!(found("33:7"), (33, 7, vec![]));
        assert_eq!(found("1000"), (1000, 0, vec![]));
        assert_eq!(found("1000:empty"), (1000, 5, vec![]));
    }

    #[test]
    fn says_what_is_missing() {
        let refused = |user: &str| resolve(user, PASSWD, GROUP).unwrap_err();
        for name in ["nobody", "broken", "high", ""] {
            assert_eq!(refused(name), AccountError::NoUser { name: name.into() });
        }
        assert_eq!(refused("root:wheel"), AccountError::NoGroup { name: "wheel".into() });
        assert_eq!(refused("root:"), AccountError::NoGroup { name: String::new() });
    }

    #[test]
    fn a_login_is_what_the_image_says_of_it() {
        let www = login(33, PASSWD);
        assert_eq!(
            (www.name.as_str(), www.home.as_str(), www.shell.as_str()),
            ("www-data", "/var/www", "/usr/sbin/nologin")
        );
        assert_eq!(login(1000, PASSWD), Login::default());
    }

    /// setresuid(-1) changes nothing: the service would have stayed root.
    #[test]
    fn refuses_the_id_that_means_no_change() {
        for user in ["4294967295", "0:4294967295", "4294967296", "99999999999999999999"] {
            assert!(matches!(resolve(user, PASSWD, GROUP), Err(AccountError::NotAnId { .. })), "{user}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_gives_the_id_that_means_no_change(user: String, passwd: String, group: String) {
            if let Ok(identity) = resolve(&user, &passwd, &group) {
                prop_assert!(identity.uid != u32::MAX && identity.gid != u32::MAX);
            }
        }
    }
}
