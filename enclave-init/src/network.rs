//! The files by which programs find names: `/etc/hosts` and `/etc/resolv.conf` of the services' root.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use rustix::io::Errno;

/// Where the resolver of `pf-proxy transparent` is asked. The same addresses as those of the crate `intercept`, which a test
/// holds them against.
const RESOLVERS: [&str; 2] = ["198.18.0.53", "fd67:6c61:7373::53"];

/// What the image's own file is called afterwards.
const KEPT_SUFFIX: &str = "image";

/// What happened to the image's own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// There was none, or an empty one.
    Absent,
    /// It has another name now.
    Kept,
}

/// Programs look `localhost` up, and an image made of a bare program has no file that says what it is. An image's own file
/// stays as it is.
pub(crate) fn name_localhost(root: &Path) -> io::Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    let file = OpenOptions::new().write(true).create_new(true).open(etc.join("hosts"));
    match file {
        Ok(mut file) => file.write_all(b"127.0.0.1 localhost\n::1 localhost\n"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Has programs ask the enclave's resolver. A file of the image, or a link, would lead them to servers that cannot be reached:
/// it is put aside as `resolv.conf.image`.
pub(crate) fn name_resolver(root: &Path) -> io::Result<Own> {
    let etc = root.join("etc");
    match fs::symlink_metadata(&etc) {
        Ok(found) if !found.is_dir() => return Err(Errno::NOTDIR.into()),
        Ok(_) => {}
        Err(_) => fs::create_dir(&etc)?,
    }
    let path = etc.join("resolv.conf");
    let own = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Own::Absent,
        Err(error) => return Err(error),
        Ok(found) if found.is_file() && found.len() == 0 => {
            fs::remove_file(&path)?;
            Own::Absent
        }
        Ok(_) => {
            fs::rename(&path, path.with_extension(format!("conf.{KEPT_SUFFIX}")))?;
            Own::Kept
        }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    for resolver in RESOLVERS {
        writeln!(file, "nameserver {resolver}")?;
    }
    writeln!(file, "options edns0")?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        root
    }

    fn read(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join("etc").join(name)).unwrap()
    }

    #[test]
    fn programs_ask_the_resolver_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(name_resolver(root.path()).unwrap(), Own::Absent);
        let text = read(root.path(), "resolv.conf");
        assert_eq!(text, "nameserver 198.18.0.53\nnameserver fd67:6c61:7373::53\noptions edns0\n");
        let plan = [intercept::plan::RESOLVER_IPV4.to_string(), intercept::plan::RESOLVER_IPV6.to_string()];
        assert_eq!(RESOLVERS.map(str::to_owned), plan);
        name_localhost(root.path()).unwrap();
        assert!(read(root.path(), "hosts").contains("127.0.0.1 localhost\n"));
    }

    #[test]
    fn a_file_of_the_image_is_kept_under_another_name() {
        let root = root();
        fs::write(root.path().join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        fs::write(root.path().join("etc/hosts"), "192.0.2.1 db\n").unwrap();
        assert_eq!(name_resolver(root.path()).unwrap(), Own::Kept);
        name_localhost(root.path()).unwrap();
        assert_eq!(read(root.path(), "resolv.conf.image"), "nameserver 192.0.2.1\n");
        assert!(read(root.path(), "resolv.conf").contains("198.18.0.53"));
        assert_eq!(read(root.path(), "hosts"), "192.0.2.1 db\n");
    }

    /// Distributions ship a link into /run; written through, the file would have been made wherever that leads.
    #[test]
    fn a_link_is_put_aside_and_not_followed() {
        let (root, elsewhere) = (root(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("made");
        symlink(&target, root.path().join("etc/resolv.conf")).unwrap();
        assert_eq!(name_resolver(root.path()).unwrap(), Own::Kept);
        assert!(!target.exists());
        assert!(read(root.path(), "resolv.conf").contains("198.18.0.53"));

        let linked = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), linked.path().join("etc")).unwrap();
        assert!(name_resolver(linked.path()).is_err());
        assert!(fs::read_dir(elsewhere.path()).unwrap().next().is_none());
    }

    #[test]
    fn an_empty_file_is_nobody_s() {
        let root = root();
        fs::write(root.path().join("etc/resolv.conf"), "").unwrap();
        assert_eq!(name_resolver(root.path()).unwrap(), Own::Absent);
        assert!(!root.path().join("etc/resolv.conf.image").exists());
    }
}
