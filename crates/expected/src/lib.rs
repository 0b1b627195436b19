//! Says which enclave is expected: the registers of an image, stored reference values, single registers, a policy file.
//!
//! Everything that compares an enclave with something takes what to compare it with from here, so that the same options
//! mean the same everywhere. Judges nothing by itself but a [`PolicyFile`]; the comparing is `attestation::appraise`'s.
//! Called by `glasshouse verify` and by the operators' `pipeline`.

#![forbid(unsafe_code)]

mod args;
mod image;
mod policy;
mod reference;

pub use args::{Expected, ExpectedArgs, ExpectedError};
pub use image::{ImageError, MeasuredImage, has_monitor};
pub use policy::{
    ControlRequirement, Finding, MAX_POLICY_BYTES, MAX_RELEASES, MAX_REQUIREMENTS, PolicyError, PolicyFile,
    Release, ReleaseVersion, Rule, VersionError, egress_beyond,
};
pub use reference::{MAX_REFERENCE_BYTES, Reference, ReferenceError};

use std::collections::BTreeMap;

use attestation::{Pcr, PcrIndex};

/// The values of registers, by index.
pub type Registers = BTreeMap<PcrIndex, Pcr>;

/// Whether registers with values say which image runs, or who signed it. PCR4 alone, say, leaves it open.
pub fn names_an_image(registers: &Registers) -> bool {
    let has = |index| PcrIndex::new(index).is_ok_and(|index| registers.contains_key(&index));
    has(0) || (has(1) && has(2)) || has(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of anybody's image on the right parent instance is no evidence of an image.
    #[test]
    fn registers_that_leave_the_image_open_do_not_name_one() {
        let of = |indices: &[u8]| -> Registers {
            indices.iter().map(|index| (PcrIndex::new(*index).unwrap(), Pcr::ZERO)).collect()
        };
        for indices in [&[0][..], &[1, 2], &[8], &[0, 4, 16]] {
            assert!(names_an_image(&of(indices)), "{indices:?}");
        }
        for indices in [&[][..], &[1], &[2], &[3, 4], &[16]] {
            assert!(!names_an_image(&of(indices)), "{indices:?}");
        }
    }
}
