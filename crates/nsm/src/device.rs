//! The real module, behind the kernel's driver.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::provider::Transact;
use crate::wire::{MAX_RESPONSE_BYTES, Request, Response};

/// The module behind a device file, `/dev/nsm`.
///
/// The kernel's driver serves holders of `CAP_SYS_ADMIN` only and one call at a time.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    file: File,
}

impl Device {
    /// Opens the device file. Whether a module is behind it shows with the first call.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|source| Error::Open { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }
}

impl Transact for Device {
    fn transact(&self, request: &Request) -> Result<Response, Error> {
        let request = request.encode_within_limit()?;
        let mut response = vec![0; MAX_RESPONSE_BYTES];
        let filled = sys::nsm::message(&self.file, &request, &mut response)
            .map_err(|errno| Error::Ioctl { path: self.path.clone(), errno })?;
        response.truncate(filled);
        Ok(Response::decode(&response)?)
    }
}
