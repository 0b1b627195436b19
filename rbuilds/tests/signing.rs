//! Signing images that are built, with keys here and elsewhere, and checking signatures.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rbuilds::{
    BuildReport, KeySource, SignError, SignInput, SignatureRefusal, Trust, certificates, check_signature,
    measure, reference_values_path, sign, signer,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::{Tar, Workshop, chain};

/// 2026-01-01T00:00:00Z, when the certificates of these tests are valid.
const NOW: u64 = 1_767_225_600;

/// A folder with an unsigned image, its reference values, a key and its certificate.
struct Signing {
    workshop: Workshop,
    report: BuildReport,
}

impl Signing {
    fn new() -> Self {
        let workshop = Workshop::new();
        fs::write(workshop.path("rootfs.tar"), Tar::default().file("bin/app", b"app").end()).unwrap();
        let report = workshop.build("{ rootfs = \"rootfs.tar\" }").unwrap();
        report.write_beside(&workshop.output()).unwrap();
        let signing = Self { workshop, report };
        signing.pair("", &rcgen::PKCS_ECDSA_P384_SHA384);
        signing
    }

    /// Makes NAMEkey.pem and NAMEcert.pem.
    fn pair(&self, name: &str, algorithm: &'static rcgen::SignatureAlgorithm) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate =
            CertificateParams::new(vec!["signer".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(self.path(&format!("{name}key.pem")), key.serialize_pem()).unwrap();
        fs::write(self.path(&format!("{name}cert.pem")), certificate.pem()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workshop.path(name)
    }

    fn image(&self) -> PathBuf {
        self.workshop.output()
    }

    fn sign_to(&self, output: &Path, key: KeySource<'_>) -> Result<rbuilds::SignedImage, SignError> {
        let signer = signer(key, &self.path("cert.pem"), NOW)?;
        sign(&SignInput { image: &self.image(), output, signer: &signer, replace: false })
    }

    fn sign(&self) -> rbuilds::SignedImage {
        self.sign_to(&self.image(), KeySource::File(&self.path("key.pem"))).unwrap()
    }

    /// Why a key and a certificate are refused, as a person sees it.
    fn refused(&self, key: &str, certificate: &str, at: u64) -> String {
        let key = self.path(key);
        let error = signer(KeySource::File(&key), &self.path(certificate), at).unwrap_err();
        assert!(error.is_mistake());
        chain(&error)
    }

    fn refusals(&self, trust: &Trust, at: Option<u64>) -> Vec<SignatureRefusal> {
        let check = check_signature(&self.image(), trust, at).unwrap();
        assert_eq!(check.good, check.refusals.is_empty());
        check.refusals
    }

    fn rbuilds(&self, arguments: &[&str]) -> Output {
        let folder = self.workshop.dir.path();
        Command::new(env!("CARGO_BIN_EXE_rbuilds")).args(arguments).current_dir(folder).output().unwrap()
    }

    /// The files in the image's folder.
    fn beside(&self) -> Vec<String> {
        let read = self.path("out").read_dir().unwrap();
        let mut names: Vec<_> = read.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn certificate(path: &Path) -> Trust {
    Trust::Certificate(certificates(path).unwrap().swap_remove(0))
}

#[test]
fn a_signed_image_keeps_its_registers_and_its_reference_values_get_the_signers() {
    let signing = Signing::new();
    let signed = signing.sign();
    let mut expected = signing.report.pcrs.clone();
    expected.insert(8, signed.pcrs[&8]);
    assert_eq!(signed.pcrs, expected);
    assert_eq!(measure(&signing.image()).unwrap().pcrs, expected);
    let json = fs::read(reference_values_path(&signing.image())).unwrap();
    let beside: BuildReport = serde_json::from_slice(&json).unwrap();
    assert_eq!(beside.eif_bytes, fs::metadata(signing.image()).unwrap().len());
    assert_eq!(beside, BuildReport { pcrs: expected, eif_bytes: beside.eif_bytes, ..signing.report.clone() });
    assert_eq!(signing.refusals(&certificate(&signing.path("cert.pem")), Some(NOW)), []);
}

#[test]
fn signing_to_another_file_leaves_the_first_as_it_was() {
    let signing = Signing::new();
    let before = fs::read(signing.image()).unwrap();
    let other = signing.path("signed.eif");
    signing.sign_to(&other, KeySource::File(&signing.path("key.pem"))).unwrap();
    assert!(fs::read(signing.image()).unwrap() == before);
    assert_eq!(signing.refusals(&Trust::Anyone, None), [SignatureRefusal::Unsigned]);
    assert!(check_signature(&other, &Trust::Anyone, None).unwrap().good);
    assert!(reference_values_path(&other).exists());
}

#[test]
fn an_image_built_with_a_signer_is_signed_as_one_signed_later() {
    let signing = Signing::new();
    let signer = signer(KeySource::File(&signing.path("key.pem")), &signing.path("cert.pem"), NOW).unwrap();
    let manifest = "name = \"test\"\nimage = { rootfs = \"rootfs.tar\" }\n[app]\ncommand = [\"/bin/app\"]\n";
    let output = signing.path("built.eif");
    let input = rbuilds::BuildInput {
        manifest: &manifest::Manifest::parse(manifest).unwrap(),
        base_dir: signing.workshop.dir.path(),
        guest_binary: &signing.path("guest"),
        kernel: rbuilds::Kernel::new(signing.path("bzImage"), None),
        output: &output,
        limits: rbuilds::Limits::default(),
        registry: signing.workshop.registry.clone(),
        build_time: 0,
        signer: Some(&signer),
    };
    let report = rbuilds::build(&input, &|_| {}).unwrap();
    assert_eq!(report.pcrs, signing.sign().pcrs);
    assert!(check_signature(&output, &Trust::Anyone, None).unwrap().good);
}

#[test]
fn a_signed_image_is_signed_again_only_when_asked() {
    let signing = Signing::new();
    signing.sign();
    let before = fs::read(signing.image()).unwrap();
    let output = signing.rbuilds(&["sign", "out/app.eif", "--key", "key.pem", "--cert", "cert.pem"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--replace"));
    assert!(fs::read(signing.image()).unwrap() == before);
    signing.pair("new-", &rcgen::PKCS_ECDSA_P384_SHA384);
    let with = ["sign", "out/app.eif", "--key", "new-key.pem", "--cert", "new-cert.pem", "--replace"];
    assert!(signing.rbuilds(&with).status.success());
    assert_eq!(signing.refusals(&certificate(&signing.path("new-cert.pem")), None), []);
    let refusals = signing.refusals(&certificate(&signing.path("cert.pem")), None);
    assert!(matches!(refusals[..], [SignatureRefusal::OtherCertificate { .. }]), "{refusals:?}");
}

#[test]
fn unusable_keys_and_certificates_are_named_and_no_key_is_shown() {
    let signing = Signing::new();
    signing.pair("ed25519-", &rcgen::PKCS_ED25519);
    signing.pair("other-", &rcgen::PKCS_ECDSA_P384_SHA384);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(signing.path("locked.pem"), encrypted).unwrap();
    fs::write(signing.path("long.pem"), vec![b'-'; 100_000]).unwrap();
    let key = fs::read_to_string(signing.path("key.pem")).unwrap();
    fs::write(signing.path("broken.pem"), key.replace("-----END", "-----FIN")).unwrap();
    for (key, certificate, at, expected) in [
        ("ed25519-key.pem", "cert.pem", NOW, "ed25519-key.pem is not a private key on P-256, P-384 or P-521"),
        ("key.pem", "ed25519-cert.pem", NOW, "ed25519-cert.pem cannot be used as signing certificate: "),
        ("other-key.pem", "cert.pem", NOW, "certifies: name the certificate made for this key"),
        ("locked.pem", "cert.pem", NOW, "locked.pem is an encrypted private key"),
        ("cert.pem", "cert.pem", NOW, "cert.pem holds no private key in PEM form"),
        ("broken.pem", "cert.pem", NOW, "broken.pem holds no private key in PEM form"),
        ("key.pem", "bzImage", NOW, "bzImage cannot be used as signing certificate: "),
        ("long.pem", "cert.pem", NOW, "long.pem has more than the 65536 bytes"),
        (
            "key.pem",
            "cert.pem",
            0,
            "cert.pem is valid from 1975-01-01T00:00:00Z to 4096-01-01T00:00:00Z, not at 1970",
        ),
        ("key.pem", "cert.pem", 80_000_000_000, "renew the certificate, which changes PCR8"),
    ] {
        let said = signing.refused(key, certificate, at);
        assert!(said.contains(expected), "{said}");
        let secret = fs::read_to_string(signing.path("key.pem")).unwrap();
        assert!(secret.lines().all(|line| !said.contains(line)), "{said}");
    }
    let missing = signer(KeySource::File(&signing.path("none.pem")), &signing.path("cert.pem"), NOW);
    assert!(chain(&missing.unwrap_err()).contains("none.pem"));
    assert_eq!(signing.beside(), ["app.eif", "app.eif.json"]);
}

#[test]
fn a_truncated_image_is_not_signed_and_nothing_appears() {
    let signing = Signing::new();
    let bytes = fs::read(signing.image()).unwrap();
    fs::write(signing.image(), &bytes[..bytes.len() - 1]).unwrap();
    let output = signing.path("out/signed.eif");
    let error = signing.sign_to(&output, KeySource::File(&signing.path("key.pem"))).unwrap_err();
    assert!(!error.is_mistake());
    assert!(chain(&error).contains("app.eif is not a usable enclave image file"), "{}", chain(&error));
    assert_eq!(signing.beside(), ["app.eif", "app.eif.json"]);
}

#[test]
fn reference_values_of_another_image_are_not_touched() {
    let signing = Signing::new();
    let mut report = signing.report.clone();
    report.pcrs.insert(0, rbuilds::PcrValue([7; 48]));
    report.write_beside(&signing.image()).unwrap();
    let before = fs::read(signing.image()).unwrap();
    let error = signing.sign_to(&signing.image(), KeySource::File(&signing.path("key.pem"))).unwrap_err();
    assert!(matches!(error, SignError::OtherReferenceValues { .. }), "{error}");
    assert!(fs::read(signing.image()).unwrap() == before);
}

#[test]
fn provenance_beside_the_image_becomes_that_of_the_signed_one_and_the_sbom_stays() {
    let signing = Signing::new();
    let text = "name = \"test\"\nimage = { rootfs = \"rootfs.tar\" }\n[app]\ncommand = [\"/bin/app\"]\n";
    let input = rbuilds::BuildInput {
        manifest: &manifest::Manifest::parse(text).unwrap(),
        base_dir: signing.workshop.dir.path(),
        guest_binary: &signing.path("guest"),
        kernel: rbuilds::Kernel::new(signing.path("bzImage"), None),
        output: &signing.image(),
        limits: rbuilds::Limits::default(),
        registry: signing.workshop.registry.clone(),
        build_time: 0,
        signer: None,
    };
    let documents = rbuilds::build_documented(&input, &|_| {}).unwrap().1;
    let paths = documents.write_beside(&signing.image()).unwrap();
    let signed = signing.sign();
    assert_eq!(signed.provenance.as_ref(), Some(&paths.provenance));
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let statement = json(&fs::read_to_string(&paths.provenance).unwrap());
    let subject = &statement["subject"][0];
    let image = fs::read(signing.image()).unwrap();
    assert_eq!(subject["digest"]["sha256"], rbuilds::Digest::of(&image).to_hex());
    assert_eq!(subject["annotations"]["pcr8"], signed.pcrs[&8].to_string());
    assert_eq!(statement["predicate"], json(&documents.provenance)["predicate"]);
    assert_eq!(fs::read_to_string(&paths.sbom).unwrap(), documents.sbom);
    // Built with the signer at once, only the signature differs, and with it the digest.
    let signer = signer(KeySource::File(&signing.path("key.pem")), &signing.path("cert.pem"), NOW).unwrap();
    let at_once = rbuilds::build_documented(&rbuilds::BuildInput { signer: Some(&signer), ..input }, &|_| {})
        .unwrap()
        .1;
    assert_eq!(at_once.sbom, documents.sbom);
    assert_eq!(json(&at_once.provenance)["subject"][0]["annotations"], subject["annotations"]);
}

#[test]
fn provenance_of_something_else_is_not_touched() {
    let signing = Signing::new();
    let path = signing.path("out/app.eif.provenance.json");
    let before = fs::read(signing.image()).unwrap();
    for text in
        ["{", "{}", r#"{"subject":[{"digest":{},"annotations":{"pcr0":"00","pcr1":"00","pcr2":"00"}}]}"#]
    {
        fs::write(&path, text).unwrap();
        let error = signing.sign_to(&signing.image(), KeySource::File(&signing.path("key.pem"))).unwrap_err();
        assert!(matches!(error, SignError::OtherProvenance { .. }), "{error}");
        assert!(error.is_mistake());
        assert!(fs::read(signing.image()).unwrap() == before);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_command_signs_and_one_that_fails_changes_nothing() {
    let signing = Signing::new();
    let before = fs::read(signing.image()).unwrap();
    for (command, status) in [("exit 7", 3), ("echo no signature", 2)] {
        let output = signing.rbuilds(&["sign", "out/app.eif", "--command", command, "--cert", "cert.pem"]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(fs::read(signing.image()).unwrap() == before);
    }
    // As a script for a token or a key service would do.
    let command = "openssl dgst -sha384 -sign key.pem";
    let output = signing.rbuilds(&["sign", "out/app.eif", "--command", command, "--cert", "cert.pem"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(signing.refusals(&certificate(&signing.path("cert.pem")), None), []);
}

#[test]
fn a_signature_made_elsewhere_is_attached_if_it_is_one_of_this_image() {
    let signing = Signing::new();
    assert!(signing.rbuilds(&["measure", "out/app.eif", "--to-sign", "bytes"]).status.success());
    let elsewhere = ["dgst", "-sha384", "-sign", "key.pem", "-out", "signature", "bytes"];
    let openssl = Command::new("openssl").args(elsewhere).current_dir(signing.workshop.dir.path()).status();
    assert!(openssl.unwrap().success());
    let attach = ["sign", "out/app.eif", "--cert", "cert.pem", "--signature", "signature"];
    signing.pair("other-", &rcgen::PKCS_ECDSA_P384_SHA384);
    let mut foreign = attach;
    foreign[3] = "other-cert.pem";
    let output = signing.rbuilds(&foreign);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("not by the key of the signing certificate"));
    assert_eq!(signing.refusals(&Trust::Anyone, None), [SignatureRefusal::Unsigned]);
    assert!(signing.rbuilds(&attach).status.success());
    assert_eq!(signing.refusals(&Trust::Anyone, None), []);
}

#[test]
fn keys_on_the_other_curves_sign_here_and_elsewhere() {
    for (algorithm, curve, hash) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "P-256", "-sha256"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "P-521", "-sha512"),
    ] {
        let signing = Signing::new();
        signing.pair("", algorithm);
        let measure = ["measure", "out/app.eif", "--to-sign", "bytes", "--curve", curve];
        assert!(signing.rbuilds(&measure).status.success());
        let elsewhere = ["dgst", hash, "-sign", "key.pem", "-out", "signature", "bytes"];
        let openssl =
            Command::new("openssl").args(elsewhere).current_dir(signing.workshop.dir.path()).status();
        assert!(openssl.unwrap().success());
        let attach = ["sign", "out/app.eif", "--cert", "cert.pem", "--signature", "signature"];
        let output = signing.rbuilds(&attach);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(signing.refusals(&certificate(&signing.path("cert.pem")), None), []);
        let again = ["sign", "out/app.eif", "--cert", "cert.pem", "--key", "key.pem", "--replace"];
        assert!(signing.rbuilds(&again).status.success());
        assert_eq!(signing.refusals(&certificate(&signing.path("cert.pem")), None), []);
    }
}

/// A root and a signing certificate that it issued; the signer's files are key.pem and cert.pem.
fn issued(signing: &Signing) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let root = CertifiedIssuer::self_signed(params, root_key).unwrap();
    fs::write(signing.path("root.pem"), root.pem()).unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::new(vec!["signer".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let certificate = params.signed_by(&key, &root).unwrap();
    fs::write(signing.path("key.pem"), key.serialize_pem()).unwrap();
    fs::write(signing.path("cert.pem"), certificate.pem()).unwrap();
}

#[test]
fn a_certificate_leads_to_its_root_and_to_no_other() {
    let signing = Signing::new();
    fs::rename(signing.path("cert.pem"), signing.path("stranger.pem")).unwrap();
    issued(&signing);
    signing.sign();
    let roots = |name: &str, at| Trust::Roots { roots: certificates(&signing.path(name)).unwrap(), at };
    assert_eq!(signing.refusals(&roots("root.pem", NOW), None), []);
    assert_eq!(signing.refusals(&roots("cert.pem", NOW), None), []);
    for (name, at) in [("stranger.pem", NOW), ("root.pem", 0)] {
        let refusals = signing.refusals(&roots(name, at), None);
        assert!(matches!(refusals[..], [SignatureRefusal::Untrusted { .. }]), "{refusals:?}");
    }
    let root = ["verify-signature", "out/app.eif", "--root", "root.pem"];
    assert!(signing.rbuilds(&root).status.success());
}

#[test]
fn the_time_decides_only_when_it_is_given() {
    let signing = Signing::new();
    signing.sign();
    assert_eq!(signing.refusals(&Trust::Anyone, None), []);
    let refusals = signing.refusals(&Trust::Anyone, Some(80_000_000_000));
    assert!(matches!(refusals[..], [SignatureRefusal::Expired { .. }]), "{refusals:?}");
    let refusals = signing.refusals(&Trust::Anyone, Some(0));
    assert!(matches!(refusals[..], [SignatureRefusal::NotYetValid { .. }]), "{refusals:?}");
    let at = ["verify-signature", "out/app.eif", "--at", "1970-01-01T00:00:00Z", "--json"];
    let output = signing.rbuilds(&at);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["refusals"][0]["reason"], "not-yet-valid");
    assert_eq!(json["good"], false);
}

/// Moves the signature of one image onto another.
fn transplant(from: &Path, to: &Path) {
    let mut eif = eif::Eif::open(fs::File::open(from).unwrap()).unwrap();
    let section = *eif.sections().last().unwrap();
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut eif.read(&section).unwrap(), &mut content).unwrap();
    let mut bytes = fs::read(to).unwrap();
    let end = usize::try_from(
        eif::Eif::open(fs::File::open(to).unwrap()).unwrap().sections().last().unwrap().offset,
    );
    bytes.truncate(end.unwrap());
    let length = (content.len() as u64).to_be_bytes();
    let start = bytes.len();
    bytes[start - 8..].copy_from_slice(&length);
    bytes.extend(content);
    // The fifth section of an image of ours is the signature (from 0: kernel, cmdline, metadata, two ramdisks).
    bytes[284 + 5 * 8..284 + 6 * 8].copy_from_slice(&length);
    let crc = [&bytes[..544], &bytes[548..]].concat();
    let mut hasher = flate2::Crc::new();
    hasher.update(&crc);
    bytes[544..548].copy_from_slice(&hasher.sum().to_be_bytes());
    fs::write(to, bytes).unwrap();
}

#[test]
fn a_signature_of_another_image_is_told_apart() {
    let (first, second) = (Signing::new(), Signing::new());
    fs::write(second.path("guest"), b"another guest binary").unwrap();
    second.workshop.build("{ rootfs = \"rootfs.tar\" }").unwrap();
    fs::remove_file(reference_values_path(&second.image())).unwrap();
    first.sign();
    second.sign();
    transplant(&first.image(), &second.image());
    let refusals = second.refusals(&certificate(&first.path("cert.pem")), None);
    assert_eq!(refusals, [SignatureRefusal::OtherImage { pcr0: measure(&second.image()).unwrap().pcrs[&0] }]);
}

#[test]
fn an_image_that_awss_tool_signed_is_good() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/eif/testdata/signed.eif");
    assert!(check_signature(&image, &Trust::Anyone, None).unwrap().good);
}
