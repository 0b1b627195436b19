//! Where the parts of every image lie on this machine, unless the caller names others: kernel and init.
//!
//! Both commands that build call it. It only finds and recognises files; [`crate::build`] reads them.

use std::{
    env,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use eif::Architecture;

use crate::{Kernel, format};

/// Where a bzImage says that it is one (Linux, Documentation/arch/x86/boot.rst, `header`).
const BZIMAGE_MAGIC_OFFSET: u64 = 0x202;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
/// Where an Image for aarch64 says that it is one (Linux, Documentation/arch/arm64/booting.rst, `magic`).
const ARM64_MAGIC_OFFSET: u64 = 0x38;
const ARM64_MAGIC: &[u8] = b"ARM\x64";
/// How a program begins (System V ABI, `e_ident`).
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// The init's file name.
const GUEST_BINARY: &str = "glasshouse-enclave";

/// Why a part of an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// The file that is taken by default is not there.
    #[error("{} is not there: {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What makes it, or names another.
        remedy: &'static str,
    },
    /// The file is something else.
    #[error("{} is not a {expected}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A folder without a kernel.
    #[error("{} has neither a bzImage nor an Image: name a kernel, or a folder with one", path.display())]
    NoKernel {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest's kernel cannot be used.
    #[error("`kernel` in glasshouse.toml")]
    InManifest(#[source] Box<PartError>),
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing says where the cache is.
    #[error("HOME is not set: set it, or GLASSHOUSE_CACHE")]
    NoHome,
    /// The program cannot tell where it lies itself.
    #[error("cannot tell where this program lies")]
    NoProgram(#[source] io::Error),
}

impl PartError {
    /// Whether the caller named a wrong file, as opposed to a machine that lacks one.
    pub fn is_mistake(&self) -> bool {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
        match self {
            Self::Other { .. } | Self::NoKernel { .. } => true,
            Self::InManifest(error) => error.is_mistake(),
            Self::Unreadable { source, .. } => {
                matches!(source.kind(), NotFound | NotADirectory | IsADirectory)
            }
            _ => false,
        }
    }
}

/// Kernels, QEMU and downloaded sources: `GLASSHOUSE_CACHE`, else `glasshouse` in the user's cache folder.
///
/// # Errors
/// [`PartError::NoHome`] when no variable says where that is.
pub fn cache_folder() -> Result<PathBuf, PartError> {
    if let Some(folder) = variable("GLASSHOUSE_CACHE") {
        return Ok(folder);
    }
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Ok(folder.join("glasshouse"));
    }
    Ok(variable("HOME").ok_or(PartError::NoHome)?.join(".cache/glasshouse"))
}

/// The kernel that `make kernel` builds.
///
/// # Errors
/// As [`cache_folder`].
pub fn pinned_kernel() -> Result<PathBuf, PartError> {
    Ok(cache_folder()?.join("kernel/current/bzImage"))
}

/// The kernel given, a `bzImage`, an `Image` for aarch64, or a folder of the vendor's (one of the two, and `nsm.ko`); or the
/// pinned one, which is for x86-64. What it is decides what the image is for.
///
/// # Errors
/// [`PartError`] names the file and what to do.
pub fn find_kernel(given: Option<PathBuf>) -> Result<Kernel, PartError> {
    let path = match given {
        Some(path) => path,
        None => {
            let pinned = pinned_kernel()?;
            if !pinned.is_file() {
                let remedy = "`make kernel` builds it; or name a kernel with --kernel";
                return Err(PartError::Missing { path: pinned, remedy });
            }
            pinned
        }
    };
    let (kernel, module) = match path.is_dir() {
        true => {
            let image = path.join("Image");
            let kernel = if image.is_file() { image } else { path.join("bzImage") };
            if !kernel.is_file() {
                return Err(PartError::NoKernel { path });
            }
            (kernel, Some(path.join("nsm.ko")).filter(|module| module.is_file()))
        }
        false => (path, None),
    };
    let architecture = recognise(&kernel)?;
    let reads_file_systems = match architecture {
        Architecture::X86_64 => format::reads_file_systems(&kernel)
            .map_err(|source| PartError::Unreadable { path: kernel.clone(), source })?,
        // It may, but how its configuration lies in it is not known here.
        Architecture::Aarch64 => None,
    };
    Ok(Kernel { architecture, reads_file_systems, ..Kernel::new(kernel, module) })
}

/// What a kernel is for.
fn recognise(kernel: &Path) -> Result<Architecture, PartError> {
    const EXPECTED: &str = "Linux kernel (bzImage, or Image for aarch64)";
    if has(kernel, ARM64_MAGIC_OFFSET, ARM64_MAGIC)? {
        return Ok(Architecture::Aarch64);
    }
    expect(kernel, BZIMAGE_MAGIC_OFFSET, BZIMAGE_MAGIC, EXPECTED).map(|()| Architecture::X86_64)
}

/// The enclave's init: the program given, or the one beside the running program.
///
/// # Errors
/// [`PartError`] names the file and what to do.
pub fn find_guest_binary(given: Option<&Path>) -> Result<PathBuf, PartError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => env::current_exe().map_err(PartError::NoProgram)?.with_file_name(GUEST_BINARY),
    };
    if !path.is_file() {
        return Err(PartError::Missing { path, remedy: "`make build` makes it; or name one with --enclave" });
    }
    expect(&path, 0, ELF_MAGIC, "program (ELF)")?;
    Ok(path)
}

/// Refuses a file without these bytes at that offset. What is not there is another mistake than what is something else.
fn expect(path: &Path, offset: u64, bytes: &[u8], expected: &'static str) -> Result<(), PartError> {
    match has(path, offset, bytes)? {
        true => Ok(()),
        false => Err(PartError::Other { path: path.to_owned(), expected }),
    }
}

fn has(path: &Path, offset: u64, bytes: &[u8]) -> Result<bool, PartError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut found = Vec::new();
        file.take(bytes.len() as u64).read_to_end(&mut found)?;
        Ok(found)
    };
    let found = read().map_err(|source| PartError::Unreadable { path: path.to_owned(), source })?;
    Ok(found == bytes)
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
