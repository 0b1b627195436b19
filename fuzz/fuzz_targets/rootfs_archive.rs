#![no_main]
//! A tar archive of unknown origin as root file system, as layers are too: ustar, PAX and GNU headers, whiteouts, links.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = glasshouse_fuzz::build_from(bytes, "rootfs = \"input\"");
});
