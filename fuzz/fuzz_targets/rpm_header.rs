//! What rpm keeps of an installed package, as a database of unknown origin has it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = rbuilds::fuzz::is_rpm_header(bytes);
});
