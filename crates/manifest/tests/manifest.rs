//! What a `glasshouse.toml` may say, what its mistakes look like, and the one canonical form.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::collections::BTreeMap;

use manifest::{
    Healthcheck, ImageConfig, ImageFormat, ImageHealthcheck, ImageSource, Manifest, Measured, MeasuredError,
    OnUnhealthy, Publish, Readiness, ResolveError, Restart, Service, StopSignal,
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
        ..ImageConfig::default()
    }
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

fn operator(name: &str, key: &str, may: &str) -> String {
    let head = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]";
    format!("{head}\n[[control.operator]]\nname = {name:?}\nkey = {key:?}\nmay = {may}")
}

#[test]
fn a_certificate_is_ordered_from_whom_the_way_out_leads_to() {
    let with = |acme: &str, allow: &str| {
        let head = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]";
        Manifest::parse(&format!("{head}\n[egress]\nallow = [{allow:?}]\n[acme]\n{acme}"))
    };
    const LETS_ENCRYPT: &str = "acme-v02.api.letsencrypt.org:443";
    let both = r#"domains = ["www.example.org", "example.org"]"#;
    let acme = with(both, LETS_ENCRYPT).unwrap().resolve(&image()).unwrap().acme.unwrap();
    assert_eq!(acme.domains, ["example.org", "www.example.org"]);
    assert_eq!((acme.directory.as_str(), acme.contact), (manifest::DEFAULT_ACME_DIRECTORY, None));
    let own = "domains = [\"a.example\"]\ndirectory = \"https://ca.example:8443/dir\"\ncontact = \"mailto:x@a.example\"";
    let measured = with(own, "ca.example:8443").unwrap().resolve(&image()).unwrap();
    assert_eq!(Measured::from_canonical_json(&measured.to_canonical_json()).unwrap(), measured);
    for (acme, allow, key) in [
        (both, "api.example.org:443", "egress.allow"),
        (own, "ca.example:443", "egress.allow"),
        ("domains = []", LETS_ENCRYPT, "acme.domains"),
        (r#"domains = ["localhost"]"#, LETS_ENCRYPT, "acme.domains"),
        (r#"domains = ["a b.example"]"#, LETS_ENCRYPT, "acme.domains"),
        ("domains = [\"a.example\"]\ndirectory = \"http://ca.example/\"", LETS_ENCRYPT, "acme.directory"),
        ("domains = [\"a.example\"]\ncontact = \"x@a.example\"", LETS_ENCRYPT, "acme.contact"),
    ] {
        let refused = with(acme, allow).unwrap_err();
        assert!(refused.message.contains(key), "{acme}: {refused}");
    }
    let without = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\nattestation.enabled = false\nacme = { domains = [\"a.example\"] }";
    assert!(Manifest::parse(without).unwrap_err().message.contains("attestation server"));
}

#[test]
fn secrets_are_names_that_somebody_may_give() {
    let with = |secrets: &str, may: &str| {
        let head =
            format!("name = \"a\"\nimage.rootfs = \"r\"\n[app]\ncommand = [\"/x\"]\nsecrets = {secrets}");
        Manifest::parse(&format!("{head}\n[[control.operator]]\nname = \"al\"\nkey = {KEY:?}\nmay = {may}"))
    };
    let measured =
        with(r#"["token", "API_KEY", "token"]"#, r#"["secrets"]"#).unwrap().resolve(&image()).unwrap();
    assert_eq!(measured.main_service().secrets, ["API_KEY", "token"]);
    let json = measured.to_canonical_json();
    assert_eq!(Measured::from_canonical_json(&json).unwrap(), measured);
    let text = String::from_utf8(json).unwrap();
    for (from, to) in [
        (r#"["API_KEY","token"]"#, r#"["token","API_KEY"]"#),
        (r#"["API_KEY","token"]"#, r#"["../token"]"#),
        (r#""may":["secrets"]"#, r#""may":["seal"]"#),
    ] {
        let damaged = text.replace(from, to);
        assert_ne!(damaged, text);
        let refused = Measured::from_canonical_json(damaged.as_bytes());
        assert!(matches!(refused, Err(MeasuredError::Inconsistent(_))), "{damaged}");
    }
    for name in ["", ".hidden", "-x", "a/b", "..", "a b", &"x".repeat(64)] {
        let refused = with(&format!("[{name:?}]"), r#"["secrets"]"#).unwrap_err();
        assert!(refused.message.contains("`secrets`") && refused.line == 5, "{name:?}: {refused}");
    }
    let refused = with(r#"["token"]"#, r#"["exec"]"#).unwrap_err();
    assert!(refused.message.contains("[[control.operator]]") && refused.line == 5, "{refused}");
}

#[test]
fn operators_are_measured_in_one_order() {
    let one = operator("zoe", KEY, r#"["write:/srv/data", "exec", "read:/", "exec"]"#);
    let other = KEY.replace("HR4f", "HR4e");
    let two = format!("{one}\n[[control.operator]]\nname = \"al\"\nkey = \"{other} al@x\"\nmay = [\"seal\"]");
    let control = Manifest::parse(&two).unwrap().resolve(&image()).unwrap().control.unwrap();
    assert_eq!(control.port.get(), 9002);
    assert_eq!(
        (control.operators[0].name.as_str(), control.operators[0].key.as_str()),
        ("al", other.as_str())
    );
    let may: Vec<_> = control.operators[1].may.iter().map(ToString::to_string).collect();
    assert_eq!(may, ["exec", "read:/", "write:/srv/data"]);
    let same = two.replace(&other, KEY);
    assert!(Manifest::parse(&same).unwrap_err().message.contains("already"));
}

#[test]
fn reads_every_key() {
    let manifest = Manifest::parse(FULL).unwrap();
    assert_eq!(manifest.image, ImageSource::Oci { layout: "image".into(), tag: Some("latest".into()) });
    assert_eq!((manifest.resources.cpus, manifest.resources.memory_mib), (4, 1024));
    assert_eq!(manifest.kernel.as_deref(), Some("blobs".as_ref()));

    let measured = manifest.resolve(&image()).unwrap();
    assert_eq!(measured.publish.iter().map(|p| p.port.get()).collect::<Vec<_>>(), [80, 8000]);
    assert_eq!(measured.attestation.as_ref().unwrap().port.get(), 9443);
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
fn the_format_of_the_image_may_be_chosen() {
    let format = |image: &str| Manifest::parse(&format!("name = \"x\"\nimage = {image}\n")).map(|m| m.format);
    assert_eq!(format("{ rootfs = \"r\" }").unwrap(), None);
    assert_eq!(format("{ rootfs = \"r\", format = \"erofs\" }").unwrap(), Some(ImageFormat::Erofs));
    assert_eq!(format("{ oci = \"o\", format = \"cpio\" }").unwrap(), Some(ImageFormat::Cpio));
    let refused = format("{ rootfs = \"r\", format = \"squashfs\" }").unwrap_err();
    assert!(refused.to_string().contains("`cpio`"), "{refused}");
}

#[test]
fn a_command_replaces_entrypoint_and_cmd() {
    let text = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]";
    let measured = Manifest::parse(text).unwrap().resolve(&image()).unwrap();
    assert_eq!(measured.main_service().command, ["/x"]);
    assert_eq!(measured.attestation.as_ref().unwrap().port.get(), 8443);
}

#[test]
fn an_image_without_a_program_needs_a_command() {
    let manifest = Manifest::parse("name = \"a\"\nimage.rootfs = \"r\"").unwrap();
    assert!(matches!(manifest.resolve(&ImageConfig::default()), Err(ResolveError::NoCommand)));
}

fn resolve(keys: &str, image: &ImageConfig) -> Result<Service, ResolveError> {
    let manifest = Manifest::parse(&format!("name = \"a\"\nimage.rootfs = \"r\"\n[app]\n{keys}")).unwrap();
    Ok(manifest.resolve(image)?.services.remove(0))
}

fn healthy_image(test: &[&str]) -> ImageConfig {
    let test = test.iter().map(|word| (*word).to_owned()).collect();
    let healthcheck = ImageHealthcheck { test, interval: 2_000_000_000, ..ImageHealthcheck::default() };
    ImageConfig { healthcheck, stop_signal: "QUIT".into(), ..image() }
}

#[test]
fn the_images_health_check_and_stop_signal_are_the_applications() {
    let image = healthy_image(&["CMD-SHELL", "wget x || exit 1"]);
    let app = resolve("", &image).unwrap();
    assert_eq!((app.stop_signal.to_string().as_str(), app.stop_timeout_s), ("SIGQUIT", 10));
    let check = app.healthcheck.unwrap();
    assert_eq!(check.command, ["/bin/sh", "-c", "wget x || exit 1"]);
    assert_eq!((check.interval_ms, check.start_interval_ms, check.timeout_ms), (2000, 2000, 30000));
    assert_eq!((check.retries.get(), check.start_period_ms), (3, 0));
    let exec = resolve("", &healthy_image(&["CMD", "/check", "-q"])).unwrap();
    assert_eq!(exec.healthcheck.unwrap().command, ["/check", "-q"]);
    for none in [&["NONE"] as &[_], &[]] {
        assert_eq!(resolve("", &healthy_image(none)).unwrap().healthcheck, None);
    }
    for bad in [&["CMD"] as &[_], &["CMD-SHELL", "a", "b"], &["curl", "x"]] {
        assert!(
            matches!(resolve("", &healthy_image(bad)), Err(ResolveError::ImageHealthcheck(_))),
            "{bad:?}"
        );
        assert!(resolve("healthcheck = \"none\"", &healthy_image(bad)).is_ok(), "{bad:?}");
    }
    let wrong = ImageConfig { stop_signal: "SIGFOO".into(), ..image };
    assert!(matches!(resolve("", &wrong), Err(ResolveError::ImageStopSignal { .. })));
    assert_eq!(resolve("stop_signal = \"SIGINT\"", &wrong).unwrap().stop_signal.number(), 2);
}

#[test]
fn the_manifest_overrides_the_health_check_member_by_member() {
    let image = healthy_image(&["CMD", "/check"]);
    let keys = "stop_timeout = 60\nready = \"healthy\"\nrestart = \"always\"\n[app.healthcheck]\ninterval = 0.5\n\
                retries = 5\non_unhealthy = \"restart\"";
    let app = resolve(keys, &image).unwrap();
    assert_eq!((app.ready, app.stop_timeout_s), (Readiness::Healthy, 60));
    let check = app.healthcheck.unwrap();
    assert_eq!((check.command.as_slice(), check.interval_ms), (["/check".to_owned()].as_slice(), 500));
    assert_eq!((check.retries.get(), check.on_unhealthy), (5, OnUnhealthy::Restart));
    let bare = ImageConfig::default();
    let command = "command = [\"/x\"]\n";
    let no_command = resolve(&format!("{command}healthcheck.timeout = 3"), &bare);
    assert!(matches!(no_command, Err(ResolveError::NoHealthCommand { .. })));
    let no_check = resolve(&format!("{command}ready = \"healthy\""), &bare);
    assert!(matches!(no_check, Err(ResolveError::NoHealthcheck { .. })));
    let other =
        Manifest::parse("name = \"a\"\nimage.rootfs = \"r\"\n[[service]]\nname = \"b\"\ncommand = [\"/b\"]");
    let other = other.unwrap().resolve(&image).unwrap().services.remove(0);
    assert_eq!((other.healthcheck, other.stop_signal), (None, StopSignal::TERM));
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
        (&format!("{head}[app]\nstop_signal = \"SIGFOO\""), 4, &["`stop_signal`", "SIGQUIT"]),
        (&format!("{head}[app]\nstop_timeout = -1"), 4, &["-1"]),
        (&format!("{head}[app]\nhealthcheck = \"off\""), 4, &["`healthcheck`", "none"]),
        (&format!("{head}[app]\nhealthcheck.comand = []"), 4, &["comand", "command"]),
        (&format!("{head}[app.healthcheck]\ncommand = []"), 4, &["`healthcheck.command`", "program"]),
        (&format!("{head}[app.healthcheck]\ninterval = 0"), 4, &["`healthcheck.interval`", "seconds"]),
        (&format!("{head}[app.healthcheck]\ntimeout = -1.5"), 4, &["`healthcheck.timeout`", "-1.5"]),
        (&format!("{head}[app.healthcheck]\nstart_period = nan"), 4, &["`healthcheck.start_period`"]),
        (&format!("{head}[app.healthcheck]\nretries = 0"), 4, &["`healthcheck.retries`", "at least 1"]),
        (&format!("{head}[app.healthcheck]\non_unhealthy = \"restart\""), 3, &["on_unhealthy", "`restart ="]),
        (&format!("{head}[app]\nuser = \"\""), 4, &["`user`", "uid:gid"]),
        (&format!("{head}[[publish]]\nport = 9000"), 4, &["`publish.port`", "9000", "9100"]),
        (&format!("{head}[[publish]]\nport = 8443"), 4, &["attestation"]),
        (&format!("{head}[[publish]]\nport = 80\n[[publish]]\nport = 80"), 6, &["twice"]),
        (&format!("{head}[[publish]]\nport = 70000"), 4, &["70000"]),
        (&format!("{head}[attestation]\nport = 9001"), 4, &["`attestation.port`"]),
        (&format!("{head}[control]"), 3, &["`control`", "[[control.operator]]"]),
        (&format!("{head}[control]\nport = 9001"), 4, &["`control.port`"]),
        (&format!("{head}[control]\nport = 8443"), 3, &["`control.port`", "attestation"]),
        (&operator("alice", KEY, "[]"), 7, &["`control.operator.may`", "at least one"]),
        (&operator("alice", KEY, "[\"root\"]"), 7, &["`control.operator.may`", "\"root\"", "write:/path"]),
        (&operator("alice", "ssh-rsa AAAA", "[\"exec\"]"), 6, &["`control.operator.key`", "ssh-ed25519"]),
        (&operator("a b", KEY, "[\"exec\"]"), 5, &["`control.operator.name`"]),
        (&format!("{}\n[[publish]]\nport = 9002", operator("a", KEY, "[\"exec\"]")), 9, &["control channel"]),
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
            healthcheck: None,
            name: "app".into(),
            ready,
            ready_timeout_s,
            restart,
            secrets: Vec::new(),
            stop_signal: StopSignal::TERM,
            stop_timeout_s: 10,
            user,
            workdir,
        },
    )
}

fn check() -> impl Strategy<Value = Option<Healthcheck>> {
    let command = proptest::collection::vec("[^\0]{1,12}", 1..4);
    let check =
        (command, 1_u64.., 1_u32.., any::<u64>()).prop_map(|(command, interval_ms, retries, other)| {
            Healthcheck {
                command,
                interval_ms,
                on_unhealthy: OnUnhealthy::Report,
                retries: retries.try_into().unwrap(),
                start_interval_ms: interval_ms,
                start_period_ms: other,
                timeout_ms: other.max(1),
            }
        });
    proptest::option::of(check)
}

proptest! {
    #[test]
    fn canonical_json_round_trips(
        service in service(), port in 1u16..8000, check in check(), signal in 1_u8..=31, stop_timeout_s: u32,
    ) {
        let stop_signal = signal.to_string().parse().unwrap();
        let service = Service { healthcheck: check, stop_signal, stop_timeout_s, ..service };
        let measured = Measured {
            acme: None,
            attestation: None,
            control: None,
            egress: None,
            monitor: None,
            name: "x".into(),
            publish: vec![Publish::plain(port.try_into().unwrap())],
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

#[test]
fn an_image_in_a_registry_is_named_as_container_engines_name_it() {
    let parse = |image: &str| Manifest::parse(&format!("name = \"x\"\nimage = {image}\n"));
    let manifest = parse(r#"{ registry = "nginx:1.25" }"#).unwrap();
    let ImageSource::Registry(image) = manifest.image else { panic!("{:?}", manifest.image) };
    assert_eq!(image.to_string(), "docker.io/library/nginx:1.25");
    let error = parse(r#"{ registry = "https://registry.example/web" }"#).unwrap_err();
    assert!(error.line == 2 && error.message.contains("`image.registry`"), "{error}");
    parse(r#"{ registry = "nginx", tag = "1.25" }"#).unwrap_err();
    parse(r#"{ registry = "nginx", oci = "image" }"#).unwrap_err();
}

#[test]
fn the_attestation_server_may_have_a_plain_port_and_authorities_of_clients() {
    let with = |keys: &str| {
        let text = format!(
            "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\npublish = [{{ port = 80 }}]\n[attestation]\n{keys}\n"
        );
        Manifest::parse(&text).map_err(|error| error.message)
    };
    let pem = "-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----";
    let measured = with(&format!("plain = 8080\nclient_ca = \"{pem}\"")).unwrap().resolve(&image()).unwrap();
    let attestation = measured.attestation.unwrap();
    assert_eq!(attestation.ports().map(|port| port.get()).collect::<Vec<_>>(), [8443, 8080]);
    assert!(attestation.client_ca.unwrap().ends_with("-----END CERTIFICATE-----\n"));
    for (keys, said) in [
        ("plain = 8443", "`attestation.plain` is `attestation.port`"),
        ("plain = 80", "is the attestation web server's"),
        ("plain = 9001", "`attestation.plain`: 9001 is not allowed"),
        ("client_ca = \"clients.pem\"", "certificates in PEM"),
    ] {
        let message = with(keys).unwrap_err();
        assert!(message.contains(said), "{keys}: {message}");
    }
}
