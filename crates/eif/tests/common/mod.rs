//! What the tests of images share: patterns of bytes, a metadata value, a signer, and a short way to an image.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::io::Cursor;

use eif::{BuildMetadata, Measurements, Metadata, Options, Signer, Source, Writer};
use serde_json::Value;

/// The bytes `(i * step + i / 256) mod 256`: see `testdata/SOURCES.md`.
pub fn pattern(length: usize, step: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * step + i / 256) % 256).unwrap()).collect()
}

pub fn metadata(name: &str, custom: Value) -> Metadata {
    Metadata {
        image_name: name.into(),
        image_version: name.into(),
        build: BuildMetadata {
            build_time: "1970-01-01T00:00:00+00:00".into(),
            build_tool: "oracle".into(),
            build_tool_version: "0.2.1".into(),
            operating_system: "Linux".into(),
            kernel_version: "6.12".into(),
        },
        docker_info: Value::Null,
        custom,
    }
}

pub struct Image<'a> {
    pub options: Options,
    pub kernel: &'a [u8],
    pub cmdline: &'a str,
    pub metadata: Metadata,
    pub ramdisks: Vec<&'a [u8]>,
}

impl Image<'_> {
    pub fn write(&self, signer: Option<&Signer>) -> (Vec<u8>, Measurements) {
        let mut file = Cursor::new(Vec::new());
        let kernel = Source::bytes(self.kernel);
        let mut writer =
            Writer::create(&mut file, &self.options, kernel, self.cmdline, &self.metadata).unwrap();
        for ramdisk in &self.ramdisks {
            writer.ramdisk(Source::bytes(ramdisk)).unwrap();
        }
        let measurements = writer.finish(signer).unwrap();
        (file.into_inner(), measurements)
    }
}

/// A small image that no other test depends on the bytes of.
pub fn small_image() -> Image<'static> {
    Image {
        options: Options::default(),
        kernel: b"kernel",
        cmdline: "console=ttyS0",
        metadata: metadata("small", Value::Null),
        ramdisks: vec![b"boots", b"application"],
    }
}

/// A fresh key and a certificate for it, both PEM.
pub fn key_and_certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["test".to_owned()]).unwrap().self_signed(&key).unwrap();
    (key.serialize_pem(), certificate.pem())
}

pub fn signer() -> Signer {
    let (key, certificate) = key_and_certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
    Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap()
}
