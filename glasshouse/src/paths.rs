//! Where things lie on this machine: the emulator, the state of running enclaves, the development root.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

/// The development root's folder: `GLASSHOUSE_DATA`, else `glasshouse` in the user's data folder.
pub(crate) fn data() -> Result<PathBuf> {
    if let Some(dir) = variable("GLASSHOUSE_DATA") {
        return Ok(dir);
    }
    if let Some(dir) = variable("XDG_DATA_HOME") {
        return Ok(dir.join("glasshouse"));
    }
    let home = variable("HOME").context("HOME is not set: set it, or GLASSHOUSE_DATA")?;
    Ok(home.join(".local/share/glasshouse"))
}

/// State of running enclaves: `GLASSHOUSE_STATE`, else `/run/glasshouse` for root, else `glasshouse` in
/// `XDG_RUNTIME_DIR`, else a folder of the user's in `/tmp`.
pub(crate) fn state() -> PathBuf {
    if let Some(dir) = variable("GLASSHOUSE_STATE") {
        return dir;
    }
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return "/run/glasshouse".into();
    }
    match variable("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("glasshouse"),
        None => format!("/tmp/glasshouse-{}", uid.as_raw()).into(),
    }
}

/// The QEMU that `make qemu` builds, or the one `GLASSHOUSE_QEMU` names.
pub(crate) fn qemu() -> Result<PathBuf> {
    match variable("GLASSHOUSE_QEMU") {
        Some(program) => Ok(program),
        None => Ok(rbuilds::cache_folder()?.join("qemu/current/bin/qemu-system-x86_64")),
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
