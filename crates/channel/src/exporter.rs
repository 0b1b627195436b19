//! The value that names one TLS connection, and nothing else in the world (RFC 9266).

use std::fmt;

use attestation::Sha256;

/// Length of an exporter value.
pub const EXPORTER_BYTES: usize = 32;
/// Its label (RFC 9266, section 4.2). The context is empty.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// The exporter value of one connection. Both ends compute the same one; no two connections have the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exporter(pub [u8; EXPORTER_BYTES]);

impl Exporter {
    /// What the binding statement holds.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(&self.0)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exporter(digest {})", self.digest())
    }
}
