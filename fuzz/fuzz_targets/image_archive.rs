#![no_main]
//! An image archive of unknown origin: its documents (`manifest.json`, index, manifest, config) and its layers.
//!
//! The fuzzer writes the documents; they are put into an archive for it, beside the input as it is.

use libfuzzer_sys::fuzz_target;

/// Names under which documents are looked for, in the order in which the input's parts go to them.
const DOCUMENTS: [&str; 4] = ["manifest.json", "oci-layout", "index.json", "config.json"];
/// What separates the parts: no JSON text holds it.
const SEPARATOR: u8 = 0;

fuzz_target!(|bytes: &[u8]| {
    let _ = glasshouse_fuzz::build_from(bytes, "archive = \"input\"");
    let mut archive = tar::Builder::new(Vec::new());
    for (name, part) in DOCUMENTS.iter().zip(bytes.split(|byte| *byte == SEPARATOR)) {
        let mut header = tar::Header::new_ustar();
        header.set_size(part.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, part).expect("a short name and bytes in memory");
    }
    let archive = archive.into_inner().expect("bytes in memory");
    let _ = glasshouse_fuzz::build_from(&archive, "archive = \"input\"");
});
