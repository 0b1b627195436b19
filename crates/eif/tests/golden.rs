//! Images that AWS's `eif_build` made: read, measured and made again. See `testdata/SOURCES.md`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Cursor, Read};
use std::path::Path;

use common::{Image, metadata, pattern};
use eif::{Architecture, Eif, Options, SectionKind};
use serde_json::{Value, json};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}

/// The registers that `eif_build` printed, from the table at the end of SOURCES.md.
fn printed_registers(name: &str) -> [String; 4] {
    let sources = String::from_utf8(golden("SOURCES.md")).unwrap();
    let row = sources.lines().rfind(|line| line.starts_with(&format!("| {name} |"))).unwrap();
    let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    cells[1..5].to_vec().try_into().unwrap()
}

fn custom() -> Value {
    json!({ "purpose": "test vector", "nested": { "n": 1 } })
}

#[test]
fn measures_what_eif_build_printed() {
    for name in ["one_ramdisk.eif", "two_ramdisks.eif", "signed.eif", "signed_p256.eif", "signed_p521.eif"] {
        let measured = Eif::open(Cursor::new(golden(name))).unwrap().measure().unwrap();
        let measured = [
            hex::encode(measured.pcr0),
            hex::encode(measured.pcr1),
            hex::encode(measured.pcr2),
            measured.pcr8.map(hex::encode).unwrap_or_default(),
        ];
        assert_eq!(measured, printed_registers(name), "{name}");
    }
}

#[test]
fn writes_the_very_bytes_that_eif_build_wrote() {
    let (kernel, boot, application) = (pattern(1000, 7), pattern(513, 11), pattern(700, 13));
    let mut image = Image {
        options: Options::default(),
        kernel: &kernel,
        cmdline: "console=ttyS0 one",
        metadata: metadata("golden", Value::Null),
        ramdisks: vec![&boot],
    };
    assert!(image.write(None).0 == golden("one_ramdisk.eif"));

    image.options.architecture = Architecture::Aarch64;
    image.cmdline = "console=ttyS0 two";
    image.metadata.custom = custom();
    image.ramdisks.push(&application);
    assert!(image.write(None).0 == golden("two_ramdisks.eif"));
}

#[test]
fn reads_what_eif_build_put_in() {
    let mut eif = Eif::open(Cursor::new(golden("signed.eif"))).unwrap();
    assert_eq!((eif.header().version, eif.header().architecture), (4, Architecture::Aarch64));
    assert_eq!((eif.header().default_memory_bytes, eif.header().default_cpus), (1 << 30, 2));
    assert_eq!(eif.cmdline().unwrap(), "console=ttyS0 two");
    assert_eq!(eif.metadata().unwrap().unwrap(), metadata("golden", custom()));
    let kinds: Vec<_> = eif.sections().iter().map(|section| section.kind).collect();
    use SectionKind::{Cmdline, Kernel, Metadata, Ramdisk, Signature};
    assert_eq!(kinds, [Kernel, Cmdline, Metadata, Ramdisk, Ramdisk, Signature]);
    let last = eif.ramdisks().last().unwrap();
    let mut content = Vec::new();
    eif.read(&last).unwrap().read_to_end(&mut content).unwrap();
    assert!(content == pattern(700, 13));
}

#[test]
fn verifies_the_signature_that_eif_build_made() {
    for name in ["signed.eif", "signed_p256.eif", "signed_p521.eif"] {
        let mut eif = Eif::open(Cursor::new(golden(name))).unwrap();
        let signature = eif.verify_signature().unwrap();
        assert!(signature.certificate_pem().starts_with(b"-----BEGIN CERTIFICATE-----"));
        assert_eq!(Some(signature.pcr8()), eif.measure().unwrap().pcr8);
    }
}
