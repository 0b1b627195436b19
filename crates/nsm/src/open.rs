//! From a path to the module it stands for.

use std::fs::{FileType, metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::device::Device;
use crate::error::Error;
use crate::provider::Provider;
use crate::remote::Remote;

/// Opens the module at `path`, `/dev/nsm` in an enclave: a character device is the real one ([`Device`]), a Unix socket a
/// simulated one ([`Remote`]).
///
/// # Errors
/// [`Error::Missing`] says what to do when nothing is there, [`Error::NotAModule`] what is there instead.
pub fn open(path: &Path) -> Result<Box<dyn Provider>, Error> {
    let kind = match metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing { path: path.into() });
        }
        Err(source) => {
            return Err(Error::Open { path: path.into(), source });
        }
    };
    if kind.is_char_device() {
        Ok(Box::new(Device::open(path)?))
    } else if kind.is_socket() {
        Ok(Box::new(Remote::new(path)))
    } else {
        Err(Error::NotAModule { path: path.into(), kind: name(kind) })
    }
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "regular file"
    } else {
        "file of another type"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(&dir.path().join("nsm")).err().unwrap();
        assert!(matches!(error, Error::Missing { .. }));
        assert!(error.to_string().contains("CONFIG_NSM"), "{error}");
    }

    #[test]
    fn a_directory_is_no_module() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, Error::NotAModule { kind: "directory", .. }));
    }

    #[test]
    fn another_device_keeps_the_drivers_errno() {
        let error = open(Path::new("/dev/null")).unwrap().describe().unwrap_err();
        assert!(
            matches!(&error, Error::Ioctl { errno, .. } if *errno == rustix::io::Errno::NOTTY),
            "{error}"
        );
    }
}
