//! Who signs the image that `glasshouse build` makes.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use eif::Signer;
use rbuilds::KeySource;

use crate::{
    cli::BuildArgs,
    exit::{self, Usage},
};

/// The signer that the command line names, if it names one. Its certificate has to be valid now.
pub(crate) fn signer(args: &BuildArgs) -> Result<Option<Signer>> {
    let Some(certificate) = &args.sign_cert else { return Ok(None) };
    let key = match (&args.sign_key, &args.sign_command) {
        (Some(path), _) => KeySource::File(path),
        (None, Some(command)) => KeySource::Command(command),
        (None, None) => {
            return Err(Usage("--sign-cert needs --sign-key or --sign-command".to_owned()).into());
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.context("this machine's clock is before 1970: set it")?.as_secs();
    rbuilds::signer(key, certificate, now).map(Some).map_err(|e| exit::told(e.is_mistake(), e))
}
