#![no_main]
//! A ramdisk of unknown origin: read or refused, never a panic; what one archive of plain files holds can be written
//! again and reads the same.

use std::io::Read;

use eif::cpio::{Entry, Kind, ReadError, Reader, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(all) = entries(bytes) else { return };
    // Hard links need not add up in what is read, and the writer insists that they do.
    if all.iter().any(|(entry, _)| matches!(entry.kind, Kind::File { link: Some(_), .. })) {
        return;
    }
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in &all {
        writer.file(entry, &mut content.as_slice()).expect("what was read can be written");
    }
    let again = writer.finish().expect("writing to memory succeeds");
    assert_eq!(entries(&again).expect("what was written can be read"), all);
});

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ReadError> {
    let mut archive = Reader::new(bytes, bytes.len() as u64);
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut content = Vec::new();
        archive.read_to_end(&mut content)?;
        all.push((entry, content));
    }
    Ok(all)
}
