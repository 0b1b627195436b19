//! A file that appears under its name when it is whole, or not at all.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

/// Readable by all, whatever the umask: an image holds no secrets.
const MODE: u32 = 0o644;

/// A file being written in the directory it will appear in.
#[derive(Debug)]
pub(crate) struct Output {
    target: PathBuf,
    draft: Draft,
}

#[derive(Debug)]
enum Draft {
    /// A file without a name, which vanishes even if the process is killed.
    Nameless(File),
    /// For file systems that have no nameless files. Removed when dropped.
    Named(NamedTempFile),
}

impl Output {
    /// Begins a file that will be called `target`.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let directory = directory_of(target);
        if !directory.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its directory does not exist"));
        }
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let draft = match rustix::fs::open(directory, flags, Mode::from_raw_mode(MODE)) {
            Ok(fd) => Draft::Nameless(fd.into()),
            Err(_) => Draft::Named(NamedTempFile::new_in(directory)?),
        };
        Ok(Self { target: target.to_owned(), draft })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        match &mut self.draft {
            Draft::Nameless(file) => file,
            Draft::Named(file) => file.as_file_mut(),
        }
    }

    /// Brings the file to the disk and puts it in the place of whatever had its name.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.file().sync_all()?;
        let target = self.target.clone();
        self.publish()?;
        File::open(directory_of(&target))?.sync_all()
    }

    /// Puts the file in the place of whatever had its name, without waiting for the disk: after a crash of the machine
    /// it may be there in part.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        self.file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(MODE))?;
        match self.draft {
            Draft::Nameless(file) => link(&file, &self.target),
            Draft::Named(file) => file.persist(&self.target).map(drop).map_err(|e| e.error),
        }
    }
}

/// Gives a nameless file its name. A link cannot replace a file, so it is made beside it and renamed over it.
fn link(file: &File, target: &Path) -> io::Result<()> {
    let mut beside: OsString = target.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // open(2), O_TMPFILE: the way that needs no privilege.
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, handle.as_str(), CWD, Path::new(&beside), AtFlags::SYMLINK_FOLLOW)?;
    fs::rename(&beside, target).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// The directory a file of this name is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        dir.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect()
    }

    #[test]
    fn replaces_the_old_file_only_when_committed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("app.eif");
        fs::write(&target, "old").unwrap();
        let mut output = Output::create(&target).unwrap();
        output.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        output.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["app.eif"]);
    }

    #[test]
    fn leaves_nothing_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::create(&dir.path().join("app.eif")).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_named_draft_does_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("app.eif");
        let draft = || Draft::Named(NamedTempFile::new_in(dir.path()).unwrap());
        drop(Output { target: target.clone(), draft: draft() });
        assert!(names(dir.path()).is_empty());
        let mut output = Output { target: target.clone(), draft: draft() };
        output.file().write_all(b"new").unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["app.eif"]);
    }

    #[test]
    fn refuses_a_directory_and_a_missing_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Output::create(dir.path()).is_err());
        assert!(Output::create(&dir.path().join("no/app.eif")).is_err());
    }
}
