//! Against AWS's own `eif_build`, where there is one: set `GLASSHOUSE_EIF_BUILD` to its path.
//!
//! `tests/golden.rs` holds the same comparison for images it made once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "says what was skipped")]

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Image, metadata, pattern};
use eif::{Eif, Measurements, Options, Signer};
use serde_json::{Value, json};

fn oracle() -> Option<PathBuf> {
    let path = std::env::var_os("GLASSHOUSE_EIF_BUILD").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: eif_build oracle (set GLASSHOUSE_EIF_BUILD)");
    }
    path
}

/// Inputs larger than one chunk, with lengths that are no multiple of anything.
struct Inputs {
    dir: tempfile::TempDir,
    kernel: Vec<u8>,
    ramdisks: Vec<Vec<u8>>,
    custom: Value,
}

impl Inputs {
    fn new(ramdisks: usize) -> Self {
        let inputs = Self {
            dir: tempfile::tempdir().unwrap(),
            kernel: pattern(300_007, 3),
            ramdisks: (0..ramdisks).map(|n| pattern(500_000 + 77 * n, 5 + n)).collect(),
            custom: json!({ "built for": "comparison", "list": [1, 2.5, null] }),
        };
        std::fs::write(inputs.path("kernel"), &inputs.kernel).unwrap();
        std::fs::write(inputs.path("custom.json"), inputs.custom.to_string()).unwrap();
        for (n, ramdisk) in inputs.ramdisks.iter().enumerate() {
            std::fs::write(inputs.path(&format!("ramdisk{n}")), ramdisk).unwrap();
        }
        inputs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets the oracle make `oracle.eif` and returns the registers it prints.
    fn eif_build(&self, oracle: &Path, further: &[&str]) -> Value {
        let mut command = Command::new(oracle);
        command.current_dir(self.dir.path());
        command.args([
            "--kernel",
            "kernel",
            "--cmdline",
            "console=ttyS0",
            "--output",
            "oracle.eif",
            "--name",
            "n",
        ]);
        command.args(["--build-time", "1970-01-01T00:00:00+00:00", "--build-tool", "oracle"]);
        command.args(["--build-tool-version", "0.2.1", "--img-os", "Linux", "--img-kernel", "6.12"]);
        command.args(["--metadata", "custom.json"]);
        for n in 0..self.ramdisks.len() {
            command.args(["--ramdisk", &format!("ramdisk{n}")]);
        }
        let output = command.args(further).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}");
        serde_json::from_str(&printed[printed.find('{').unwrap()..]).unwrap()
    }

    fn ours(&self, signer: Option<&Signer>) -> (Vec<u8>, Measurements) {
        let image = Image {
            options: Options::default(),
            kernel: &self.kernel,
            cmdline: "console=ttyS0",
            metadata: metadata("n", self.custom.clone()),
            ramdisks: self.ramdisks.iter().map(Vec::as_slice).collect(),
        };
        image.write(signer)
    }

    fn open_theirs(&self) -> Eif<File> {
        Eif::open(File::open(self.path("oracle.eif")).unwrap()).unwrap()
    }
}

/// The registers in the form in which the oracle prints them.
fn printed(measurements: &Measurements) -> Value {
    let mut value = serde_json::to_value(measurements).unwrap();
    value["HashAlgorithm"] = "Sha384 { ... }".into();
    value
}

#[test]
fn unsigned_images_are_equal_byte_for_byte() {
    let Some(oracle) = oracle() else { return };
    for ramdisks in 1..=3 {
        let inputs = Inputs::new(ramdisks);
        let expected = inputs.eif_build(&oracle, &[]);
        let (bytes, measurements) = inputs.ours(None);
        assert_eq!(printed(&measurements), expected);
        assert!(bytes == std::fs::read(inputs.path("oracle.eif")).unwrap(), "{ramdisks} ramdisks");
        let mut theirs = inputs.open_theirs();
        assert_eq!(printed(&theirs.measure().unwrap()), expected);
        assert_eq!(theirs.metadata().unwrap().unwrap(), metadata("n", inputs.custom.clone()));
    }
}

#[test]
fn signed_images_measure_the_same_and_verify() {
    let Some(oracle) = oracle() else { return };
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512]
    {
        let inputs = Inputs::new(2);
        let (key, certificate) = common::key_and_certificate(algorithm);
        std::fs::write(inputs.path("key.pem"), &key).unwrap();
        std::fs::write(inputs.path("cert.pem"), &certificate).unwrap();
        let expected =
            inputs.eif_build(&oracle, &["--private-key", "key.pem", "--signing-certificate", "cert.pem"]);
        let signer = Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap();
        let (_, measurements) = inputs.ours(Some(&signer));
        assert_eq!(printed(&measurements), expected);
        let mut theirs = inputs.open_theirs();
        assert_eq!(theirs.measure().unwrap(), measurements);
        assert_eq!(theirs.verify_signature().unwrap().certificate_pem(), certificate.as_bytes());
    }
}

#[test]
fn images_signed_later_equal_those_that_the_oracle_signs_up_to_the_signature() {
    let Some(oracle) = oracle() else { return };
    let inputs = Inputs::new(2);
    let (key, certificate) = common::key_and_certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
    std::fs::write(inputs.path("key.pem"), &key).unwrap();
    std::fs::write(inputs.path("cert.pem"), &certificate).unwrap();
    inputs.eif_build(&oracle, &[]);
    let mut ours = std::io::Cursor::new(Vec::new());
    let signer = Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap();
    let measurements = inputs.open_theirs().write_signed(&mut ours, &signer).unwrap();
    let expected =
        inputs.eif_build(&oracle, &["--private-key", "key.pem", "--signing-certificate", "cert.pem"]);
    assert_eq!(printed(&measurements), expected);
    let theirs = std::fs::read(inputs.path("oracle.eif")).unwrap();
    let signature = *inputs.open_theirs().sections().last().unwrap();
    assert_eq!(signature.kind, eif::SectionKind::Signature);
    // Signature bytes of 24 and more take two bytes each, so lengths differ by chance, and with them header and checksum.
    let (start, end) = (548, usize::try_from(signature.offset).unwrap() - 12);
    assert!(ours.get_ref()[start..end] == theirs[start..end]);
    assert_eq!(ours.get_ref()[..284], theirs[..284]);
}
