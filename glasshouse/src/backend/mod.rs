//! Where an enclave can run, and which of these places this machine offers.

pub(crate) mod local;
pub(crate) mod nitro;
pub(crate) mod qemu;

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use anyhow::{Result, bail};

use crate::{cli::BackendKind, paths};

/// A backend and why it was taken.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) kind: BackendKind,
    pub(crate) why: String,
}

/// The backend asked for, if it works here, or the most real one that does.
pub(crate) fn choose(wanted: Option<BackendKind>) -> Result<Choice> {
    if let Some(kind) = wanted {
        return match missing(kind)? {
            None => Ok(Choice { kind, why: "as asked".to_owned() }),
            Some(reason) => bail!("this machine cannot run the {} backend: {reason}", name(kind)),
        };
    }
    let mut reasons = Vec::new();
    for kind in [BackendKind::Nitro, BackendKind::Qemu] {
        match missing(kind)? {
            None => {
                reasons.push(format!("{} works here", name(kind)));
                return Ok(Choice { kind, why: reasons.join("; ") });
            }
            Some(reason) => reasons.push(format!("not {}: {reason}", name(kind))),
        }
    }
    Ok(Choice { kind: BackendKind::Local, why: reasons.join("; ") })
}

/// Why a backend does not work on this machine; `None` when it does.
pub(crate) fn missing(kind: BackendKind) -> Result<Option<String>> {
    Ok(match kind {
        BackendKind::Nitro => nitro::missing(),
        BackendKind::Qemu => qemu::missing(&paths::qemu()?),
        BackendKind::Local => None,
    })
}

pub(crate) fn name(kind: BackendKind) -> &'static str {
    match kind {
        BackendKind::Nitro => "nitro",
        BackendKind::Qemu => "qemu",
        BackendKind::Local => "local",
    }
}

/// A process's end as one number: its status, or 128 and the number of the signal that ended it.
pub(crate) fn exit_status(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX)
}
