//! What the development root and the certificates under it have in common.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DistinguishedName, DnType, date_time_ymd};

/// A subject of this workspace's simulations.
pub(super) fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Glasshouse");
    name.push(DnType::OrganizationalUnitName, "Development");
    name.push(DnType::CommonName, common_name);
    name
}

/// Makes a certificate valid from `not_before` (since the Unix epoch) for `life`.
pub(super) fn set_life(params: &mut CertificateParams, not_before: Duration, life: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + not_before;
    params.not_after = epoch + not_before + life;
}

/// Time since the Unix epoch, by the system's clock; zero when the clock is before it.
pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}
