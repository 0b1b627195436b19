//! What a `glasshouse.toml` may say, what its mistakes look like, and the one canonical form.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::collections::BTreeMap;

use manifest::{
    ImageConfig, ImageSource, Manifest, Measured, MeasuredError, Readiness, ResolveError, Restart, Service,
};
use proptest::prelude::*;

const FULL: &str = r#"
name = "web"
kernel = "blobs"

[image]
oci = "image"
tag = "latest"

[app]
env = { MODE = "production" }
user = "www-data"
ready = "tcp:8000"
ready_timeout = 5
restart = "on-failure"

[[service]]
name = "migrate"
command = ["/bin/migrate", "--all"]

[resources]
cpus = 4
memory_mib = 1024

[[publish]]
port = 8000

[[publish]]
port = 80

[attestation]
port = 9443
"#;

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/usr/bin/python3".into()],
        cmd: vec!["-m".into(), "http.server".into()],
        env: vec!["MODE=debug".into(), "LANG=C=x".into()],
        workdir: "/srv".into(),
        user: String::new(),
    }
}

#[test]
fn reads_every_key() {
    let manifest = Manifest::parse(FULL).unwrap();
    assert_eq!(manifest.image, ImageSource::Oci { layout: "image".into(), tag: Some("latest".into()) });
    assert_eq!((manifest.resources.cpus, manifest.resources.memory_mib), (4, 1024));
    assert_eq!(manifest.kernel.as_deref(), Some("blobs".as_ref()));

    let measured = manifest.resolve(&image()).unwrap();
    assert_eq!(measured.publish.iter().map(|p| p.get()).collect::<Vec<_>>(), [80, 8000]);
    assert_eq!(measured.attestation.unwrap().port.get(), 9443);
    assert_eq!(measured.services[0].command, ["/bin/migrate", "--all"]);
    let app = measured.main_service();
    assert_eq!(app.command, ["/usr/bin/python3", "-m", "http.server"]);
    assert_eq!(app.env["MODE"], "production");
    assert_eq!(app.env["LANG"], "C=x");
    assert_eq!((app.workdir.as_str(), app.user.as_str()), ("/srv", "www-data"));
    assert_eq!((app.ready, app.restart), (Readiness::Tcp(8000.try_into().unwrap()), Restart::OnFailure));
}

#[test]
fn an_image_may_be_in_an_archive() {
    let image = |keys: &str| Manifest::parse(&format!("name = \"a\"\n[image]\n{keys}")).unwrap().image;
    let archive =
        |tag: Option<&str>| ImageSource::Archive { path: "a.tar".into(), tag: tag.map(str::to_owned) };
    assert_eq!(image("archive = \"a.tar\""), archive(None));
    assert_eq!(image("archive = \"a.tar\"\ntag = \"web:1\""), archive(Some("web:1")));
}

#[test]
fn a_command_replaces_entrypoint_and_cmd() {
    let text = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]";
    let measured = Manifest::parse(text).unwrap().resolve(&image()).unwrap();
    assert_eq!(measured.main_service().command, ["/x"]);
    assert_eq!(measured.attestation.unwrap().port.get(), 8443);
}

#[test]
fn an_image_without_a_program_needs_a_command() {
    let manifest = Manifest::parse("name = \"a\"\nimage.rootfs = \"r\"").unwrap();
    assert!(matches!(manifest.resolve(&ImageConfig::default()), Err(ResolveError::NoCommand)));
}

#[test]
fn attestation_can_be_switched_off() {
    let text = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\nattestation.enabled = false";
    assert_eq!(Manifest::parse(text).unwrap().resolve(&ImageConfig::default()).unwrap().attestation, None);
}

/// Every mistake names its line, the key and what is allowed.
#[test]
fn mistakes_name_line_key_and_what_is_allowed() {
    let head = "name = \"a\"\nimage.rootfs = \"r\"\n";
    let cases: &[(&str, usize, &[&str])] = &[
        ("name = \"A b\"\nimage.rootfs = \"r\"", 1, &["`name`", "lower-case"]),
        ("image.rootfs = \"r\"", 1, &["name"]),
        ("name = \"a\"", 1, &["image"]),
        ("name = \"a\"\n[image]\noci = \"x\"\nrootfs = \"y\"", 2, &["`image`", "`oci`", "`rootfs`"]),
        ("name = \"a\"\n[image]\narchive = \"x\"\noci = \"y\"", 2, &["`archive`", "docker save"]),
        ("name = \"a\"\n[image]\narchive = \"x\"\nrootfs = \"y\"", 2, &["`archive`", "one of"]),
        ("name = \"a\"\n[image]\nrootfs = \"x\"\ntag = \"y\"", 2, &["`tag`", "`oci` and `archive`"]),
        ("name = \"a\"\n[image]\ntag = \"y\"", 2, &["`image`"]),
        ("name = \"a\"\n[image]\narchive = 1", 3, &["string"]),
        (&format!("{head}colour = 1"), 3, &["colour", "expected one of", "publish"]),
        (&format!("{head}[app]\ncomand = []"), 4, &["comand", "command"]),
        (&format!("{head}[app]\ncommand = []"), 4, &["`command`", "program"]),
        (&format!("{head}[app]\nready = \"tcp:0\""), 4, &["`ready`", "tcp:PORT"]),
        (&format!("{head}[app]\nready = \"tcp:+1\""), 4, &["`ready`"]),
        (&format!("{head}[app]\nready_timeout = 0"), 4, &["`ready_timeout`"]),
        (&format!("{head}[app]\nworkdir = \"srv\""), 4, &["`workdir`", "absolute"]),
        (&format!("{head}[app]\nrestart = \"often\""), 4, &["never", "on-failure", "always"]),
        (&format!("{head}[app]\nenv = {{ \"A=B\" = \"x\" }}"), 4, &["`env`", "A=B"]),
        (&format!("{head}[app]\nuser = \"\""), 4, &["`user`", "uid:gid"]),
        (&format!("{head}[[publish]]\nport = 9000"), 4, &["`publish.port`", "9000", "9100"]),
        (&format!("{head}[[publish]]\nport = 8443"), 4, &["attestation"]),
        (&format!("{head}[[publish]]\nport = 80\n[[publish]]\nport = 80"), 6, &["twice"]),
        (&format!("{head}[[publish]]\nport = 70000"), 4, &["70000"]),
        (&format!("{head}[attestation]\nport = 9001"), 4, &["`attestation.port`"]),
        (&format!("{head}[resources]\ncpus = 0"), 4, &["`resources.cpus`", "at least 1"]),
        (&format!("{head}[resources]\nmemory_mib = 1"), 4, &["`resources.memory_mib`", "64"]),
        (&format!("{head}[[service]]\nname = \"app\"\ncommand = [\"/x\"]"), 4, &["`service.name`", "taken"]),
        (&format!("{head}name = \"b\""), 3, &["duplicate key"]),
        (&format!("{head}x = ["), 3, &[]),
    ];
    for (text, line, words) in cases {
        let error = Manifest::parse(text).expect_err(text);
        assert_eq!(error.line, *line, "{text}\n{error}");
        for word in *words {
            assert!(error.message.contains(word), "{text}\n{error}\nlacks {word}");
        }
    }
}

#[test]
fn the_canonical_form_matches_its_vectors() {
    let vectors = include_str!("../../../docs/spec/vectors/manifest.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let mut accepted = 0;
    for case in vectors["accept"].as_array().unwrap() {
        let text = case["toml"].as_str().unwrap();
        let measured = Manifest::parse(text).unwrap().resolve(&ImageConfig::default()).unwrap();
        let canonical = case["canonical"].as_str().unwrap();
        assert_eq!(String::from_utf8(measured.to_canonical_json()).unwrap(), canonical);
        assert_eq!(Measured::from_canonical_json(canonical.as_bytes()).unwrap(), measured);
        accepted += 1;
    }
    let mut refused = 0;
    for case in vectors["refuse"].as_array().unwrap() {
        let text = case["canonical"].as_str().unwrap();
        assert!(Measured::from_canonical_json(text.as_bytes()).is_err(), "{}", case["why"]);
        refused += 1;
    }
    assert!(accepted >= 2 && refused >= 8);
}

#[test]
fn an_oversized_form_is_refused_before_it_is_parsed() {
    let bytes = vec![b' '; 2 << 20];
    assert!(matches!(Measured::from_canonical_json(&bytes), Err(MeasuredError::TooLong { .. })));
}

fn service() -> impl Strategy<Value = Service> {
    let readiness = prop_oneof![
        Just(Readiness::Started),
        Just(Readiness::Notify),
        (1u16..).prop_map(|p| Readiness::Tcp(p.try_into().unwrap())),
    ];
    let restart = prop_oneof![Just(Restart::Never), Just(Restart::OnFailure), Just(Restart::Always)];
    let text = "[^\0]{1,12}";
    let env = proptest::collection::btree_map("[A-Z_a-z.]{1,8}", "[^\0]{0,12}", 0..4);
    (proptest::collection::vec(text, 1..4), env, "/[^\0]{0,8}", text, readiness, restart, 1u32..).prop_map(
        |(command, env, workdir, user, ready, restart, ready_timeout_s)| Service {
            command,
            env: BTreeMap::from_iter(env),
            name: "app".into(),
            ready,
            ready_timeout_s,
            restart,
            user,
            workdir,
        },
    )
}

proptest! {
    #[test]
    fn canonical_json_round_trips(service in service(), port in 1u16..8000) {
        let measured = Measured {
            attestation: None,
            name: "x".into(),
            publish: vec![port.try_into().unwrap()],
            services: vec![service],
            version: manifest::MEASURED_VERSION,
        };
        let bytes = measured.to_canonical_json();
        prop_assert_eq!(Measured::from_canonical_json(&bytes).unwrap(), measured);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256), text in "\\PC{0,256}") {
        let _ = Measured::from_canonical_json(&bytes);
        let _ = Manifest::parse(&text);
    }
}
