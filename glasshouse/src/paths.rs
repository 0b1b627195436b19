//! Where things lie on this machine: the cache of built kernels and emulators, the state of running enclaves, the
//! development root.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Kernels, QEMU and downloaded sources: `GLASSHOUSE_CACHE`, else `glasshouse` in the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    folder("GLASSHOUSE_CACHE", "XDG_CACHE_HOME", ".cache")
}

/// The development root's folder: `GLASSHOUSE_DATA`, else `glasshouse` in the user's data folder.
pub(crate) fn data() -> Result<PathBuf> {
    folder("GLASSHOUSE_DATA", "XDG_DATA_HOME", ".local/share")
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
        None => Ok(cache()?.join("qemu/current/bin/qemu-system-x86_64")),
    }
}

/// The kernel that `make kernel` builds.
pub(crate) fn pinned_kernel() -> Result<PathBuf> {
    Ok(cache()?.join("kernel/current/bzImage"))
}

/// The enclave's init: beside this program unless given.
pub(crate) fn enclave_program(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => env::current_exe()
            .context("cannot tell where this program lies")?
            .with_file_name("glasshouse-enclave"),
    };
    if !path.is_file() {
        bail!("{} is not there: `make build` makes it; or name one with --enclave", path.display());
    }
    Ok(path)
}

fn folder(own: &str, xdg: &str, below_home: &str) -> Result<PathBuf> {
    if let Some(dir) = variable(own) {
        return Ok(dir);
    }
    if let Some(dir) = variable(xdg) {
        return Ok(dir.join("glasshouse"));
    }
    let home = variable("HOME").with_context(|| format!("HOME is not set: set it, or {own}"))?;
    Ok(home.join(below_home).join("glasshouse"))
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
