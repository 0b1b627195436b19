//! What there is to know of an enclave image before it runs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use eif::{Architecture, Eif};
use manifest::{Attestation, DEFAULT_STOP_TIMEOUT_S, Measured, Protocol};
use rbuilds::{Limits, PcrValue, held_by, measured_manifest, memory_needed, registers};

/// An enclave image on disk, read once.
#[derive(Debug)]
pub(crate) struct Image {
    /// As an absolute path.
    pub(crate) path: PathBuf,
    /// Values of the registers that booting it sets, by index: 0, 1, 2, 8 if it is signed, and 16.
    pub(crate) pcrs: BTreeMap<u8, PcrValue>,
    /// What the enclave is held to.
    pub(crate) manifest: Measured,
    /// Size of the file in MiB, rounded up.
    pub(crate) size_mib: u64,
    /// Memory in MiB that booting it takes at least, by what is in it.
    pub(crate) needed_mib: u64,
    /// Memory in MiB that the image asks for.
    pub(crate) memory_mib: u64,
    /// CPUs that the image asks for.
    pub(crate) cpus: u64,
}

impl Image {
    /// Reads and measures the image.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("{} cannot be used as an enclave image", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let path = path.canonicalize()?;
        let file = File::open(&path)?;
        let size_mib = file.metadata()?.len().div_ceil(1 << 20);
        let mut eif = Eif::open(BufReader::with_capacity(1 << 20, file))?;
        let measured = eif.measure()?;
        let needed_mib = memory_needed(&held_by(&mut eif, &Limits::default())?);
        let header = eif.header();
        let wanted = match header.architecture {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        };
        if wanted != std::env::consts::ARCH {
            bail!("it is for {wanted}, and this machine is {}", std::env::consts::ARCH);
        }
        let (memory_mib, cpus) = (header.default_memory_bytes >> 20, header.default_cpus);
        let bytes = measured_manifest(&path)?;
        let manifest = Measured::from_canonical_json(&bytes)?;
        Ok(Self {
            path,
            pcrs: registers(&measured, &bytes),
            manifest,
            size_mib,
            needed_mib,
            memory_mib,
            cpus,
        })
    }

    /// How long the enclave's init may wait for its services at a shutdown (`docs/spec/init-control.md`).
    pub(crate) fn stop_timeout(&self) -> Duration {
        let longest = self.manifest.services.iter().map(|service| service.stop_timeout_s).max();
        Duration::from_secs(longest.unwrap_or_default().max(DEFAULT_STOP_TIMEOUT_S).into())
    }

    /// Every port the enclave answers on, the attestation server's first.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (NonZeroU16, Protocol)> + '_ {
        let attestation = self.manifest.attestation.iter().flat_map(Attestation::ports);
        attestation.map(|port| (port, Protocol::Tcp)).chain(self.manifest.published_ports())
    }
}
