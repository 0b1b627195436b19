//! What the security module says of itself, in the form in which this server passes it on.

use std::collections::BTreeMap;

use nsm::{PcrIndex, Provider};
use serde::Serialize;

/// The module.
#[derive(Debug, Serialize)]
pub(crate) struct Description {
    pub(crate) module_id: String,
    /// `MAJOR.MINOR.PATCH`.
    pub(crate) version: String,
    /// The hash that PCRs use.
    pub(crate) digest: &'static str,
    pub(crate) max_pcrs: u16,
    /// Indices of the locked PCRs, ascending.
    pub(crate) locked_pcrs: Vec<u16>,
}

/// One PCR.
#[derive(Debug, Serialize)]
pub(crate) struct Pcr {
    /// In hex.
    pub(crate) value: String,
    /// Only locked ones are in attestation documents.
    pub(crate) locked: bool,
}

/// Asks for the module's description: one call.
pub(crate) fn describe(nsm: &dyn Provider) -> Result<Description, nsm::Error> {
    let module = nsm.describe()?;
    Ok(Description {
        version: format!("{}.{}.{}", module.version_major, module.version_minor, module.version_patch),
        module_id: module.module_id,
        digest: module.digest.name(),
        max_pcrs: module.max_pcrs,
        locked_pcrs: module.locked_pcrs.into_iter().collect(),
    })
}

/// Asks for every PCR the module has: one call each, and one for how many there are.
pub(crate) fn describe_pcrs(nsm: &dyn Provider) -> Result<BTreeMap<u16, Pcr>, nsm::Error> {
    let most = nsm.describe()?.max_pcrs;
    let pcrs = PcrIndex::all().filter(|&index| u16::from(index) < most).map(|index| {
        let pcr = nsm.describe_pcr(index)?;
        Ok((index.into(), Pcr { value: pcr.value.to_string(), locked: pcr.locked }))
    });
    pcrs.collect()
}
