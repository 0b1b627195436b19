//! Images from registries: Debian's `docker-registry`, and a server that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]
#![allow(clippy::print_stdout, reason = "what is skipped is said")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rbuilds::{Digest, Error, Network, RegistryError};
use support::{
    Compression, LayoutDir, Tar, Workshop, chain,
    server::{Answer, Request, Server, answer, serve},
    simple_layout,
};

fn workshop(network: Network) -> Workshop {
    let mut workshop = Workshop::new();
    workshop.registry.network = network;
    workshop.registry.cache = Some(workshop.path("cache"));
    workshop.registry.credentials = Some(workshop.path("config.json"));
    workshop
}

fn layout(workshop: &Workshop, mark: &str, compression: Compression) -> LayoutDir {
    let _ = fs::remove_dir_all(workshop.path("image"));
    let tar = Tar::default().file("mark", mark.as_bytes()).file("big", &noise(300_000)).end();
    simple_layout(workshop, &[tar], compression)
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let next = |x: &mut u32| {
        *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*x >> 24).to_le_bytes()[0])
    };
    std::iter::repeat(()).scan(1_u32, |x, ()| next(x)).take(len).collect()
}

fn mark(workshop: &Workshop) -> String {
    String::from_utf8(workshop.application()[&b"mark"[..]].1.clone()).unwrap()
}

fn image(name: &str) -> String {
    format!("{{ registry = \"{name}\" }}")
}

fn why(error: &Error) -> &RegistryError {
    match error {
        Error::Registry { source, .. } => source,
        other => panic!("not about the registry: {}", chain(other)),
    }
}

fn write_credentials(workshop: &Workshop, host: &str) {
    // "user:secret" in base64.
    let text = format!(r#"{{"auths": {{"{host}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#);
    fs::write(workshop.path("config.json"), text).unwrap();
}

/// Debian's registry on a free port of this machine.
struct Registry {
    process: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, having said so, if a program is not installed.
    fn start(with_password: bool) -> Option<Self> {
        for program in ["docker-registry", "skopeo", "htpasswd"] {
            let found =
                Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if found.is_err() {
                println!("skipped: {program} not installed");
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage").display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: 127.0.0.1:0}}\n"
        );
        if with_password {
            let file = dir.path().join("htpasswd");
            let made =
                Command::new("htpasswd").args(["-Bbc"]).arg(&file).args(["user", "secret"]).output().unwrap();
            assert!(made.status.success());
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stderr.take().unwrap());
        let (sender, host) = mpsc::channel();
        // To the end: a registry whose log nobody reads would stand still.
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let host = rest.split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit()).next();
                    let _ = sender.send(host.unwrap_or_default().to_owned());
                }
            }
        });
        let mut registry = Self { process, host: String::new(), dir };
        registry.host = host.recv_timeout(Duration::from_secs(60)).expect("docker-registry listens");
        Some(registry)
    }

    fn push(&self, layout: &Path, name: &str) {
        let from = format!("oci:{}:latest", layout.display());
        let to = format!("docker://{}/{name}", self.host);
        let policy = self.dir.path().join("policy.json");
        fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        let pushed = Command::new("skopeo")
            .arg("--policy")
            .arg(&policy)
            .args(["copy", "-q", "--dest-tls-verify=false", "--dest-creds", "user:secret", &from, &to])
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_tag_means_what_the_lock_file_says_until_it_is_updated() {
    let Some(registry) = Registry::start(false) else { return };
    let mut workshop = workshop(Network::Missing);
    let name = format!("{}/team/web:1", registry.host);
    registry.push(&layout(&workshop, "one", Compression::Gzip).root, "team/web:1");
    let first = workshop.build(&image(&name)).unwrap();
    assert_eq!(mark(&workshop), "one");
    let lock = fs::read_to_string(workshop.path("glasshouse.lock")).unwrap();
    assert!(lock.contains(&name) && lock.contains(&first.image_manifest.unwrap().to_string()), "{lock}");

    registry.push(&layout(&workshop, "two", Compression::Zstd).root, "team/web:1");
    assert_eq!(workshop.build(&image(&name)).unwrap().pcrs, first.pcrs);
    workshop.registry.network = Network::Update;
    let second = workshop.build(&image(&name)).unwrap();
    assert_eq!(mark(&workshop), "two");
    assert_ne!(second.image_manifest, first.image_manifest);

    // By digest, without a lock file.
    fs::remove_file(workshop.path("glasshouse.lock")).unwrap();
    workshop.registry.network = Network::Missing;
    let pinned = format!("{}/team/web@{}", registry.host, first.image_manifest.unwrap());
    assert_eq!(workshop.build(&image(&pinned)).unwrap().pcrs, first.pcrs);
    assert!(!workshop.path("glasshouse.lock").exists());
    fs::remove_file(workshop.output()).unwrap();
    let error = workshop.refuse(&image(&format!("{}/team/web:none", registry.host)));
    assert!(matches!(why(&error), RegistryError::NotFound { .. }), "{}", chain(&error));
}

#[test]
fn what_is_locked_and_in_the_cache_needs_no_registry() {
    let Some(registry) = Registry::start(false) else { return };
    let mut workshop = workshop(Network::Missing);
    let name = image(&format!("{}/web:1", registry.host));
    registry.push(&layout(&workshop, "one", Compression::Gzip).root, "web:1");
    workshop.registry.network = Network::Offline;
    let error = workshop.refuse(&name);
    assert!(
        matches!(why(&error), RegistryError::Offline { what } if what == "manifests/1"),
        "{}",
        chain(&error)
    );
    workshop.registry.network = Network::Missing;
    let report = workshop.build(&name).unwrap();
    drop(registry);
    for network in [Network::Missing, Network::Offline] {
        workshop.registry.network = network;
        assert_eq!(workshop.build(&name).unwrap(), report);
    }
}

/// Whoever checks an image must not change the folder it was built from: the lock file once got the tag's new digest.
#[test]
fn verifying_writes_no_lock_file_and_offline_asks_nobody() {
    let Some(registry) = Registry::start(false) else { return };
    let mut workshop = workshop(Network::Missing);
    let name = image(&format!("{}/web:1", registry.host));
    registry.push(&layout(&workshop, "one", Compression::Gzip).root, "web:1");
    workshop.build(&name).unwrap().write_beside(&workshop.output()).unwrap();
    let lock = workshop.path("glasshouse.lock");
    let locked = fs::read(&lock).unwrap();
    registry.push(&layout(&workshop, "two", Compression::Gzip).root, "web:1");
    workshop.registry.network = Network::Update;
    assert!(!workshop.verify(&name).unwrap().reproduced);
    assert_eq!(fs::read(&lock).unwrap(), locked);
    drop(registry);
    workshop.registry.network = Network::Offline;
    assert!(workshop.verify(&name).unwrap().diff.identical);
    fs::remove_file(&lock).unwrap();
    let error = workshop.verify(&name).unwrap_err();
    assert!(matches!(why(&error), RegistryError::Offline { .. }), "{}", chain(&error));
    assert!(!lock.exists());
}

#[test]
fn a_password_from_the_container_engines_file_is_used() {
    let Some(registry) = Registry::start(true) else { return };
    let workshop = workshop(Network::Missing);
    registry.push(&layout(&workshop, "one", Compression::Gzip).root, "web:1");
    let name = image(&format!("{}/web:1", registry.host));
    let error = workshop.refuse(&name);
    assert!(matches!(why(&error), RegistryError::Unauthorized { known: false, .. }), "{}", chain(&error));
    assert!(chain(&error).contains("login"));
    write_credentials(&workshop, &registry.host);
    workshop.build(&name).unwrap();
    assert_eq!(mark(&workshop), "one");
}

/// The layer's digest and its bytes.
fn layer(layout: &LayoutDir) -> (String, Vec<u8>) {
    let read = |digest: &str| fs::read(layout.blob_path(&digest.parse::<Digest>().unwrap())).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&read(layout.index[0]["digest"].as_str().unwrap())).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let bytes = read(&digest);
    (digest, bytes)
}

#[test]
fn a_blob_that_breaks_off_is_received_from_there_on() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let (digest, bytes) = layer(&layout);
    let path = format!("/v2/web/blobs/{digest}");
    let server = Server::start(&layout, {
        let path = path.clone();
        let blobs = layout.root.join("blobs/sha256");
        move |request, before| {
            (request.path == path && before < 2).then(|| {
                let mut whole = serve(&blobs, "", request);
                whole.truncate(whole.len() / 2);
                whole
            })
        }
    });
    workshop.build(&server.image()).unwrap();
    assert_eq!(mark(&workshop), "one");
    let starts: Vec<usize> = server.requests(&path).iter().map(Request::from).collect();
    assert!(starts.len() == 3 && starts[0] == 0 && starts.is_sorted() && starts[1] > 0, "{starts:?}");
    assert!(starts[2] < bytes.len() && starts[2] > starts[1], "{starts:?}");
}

/// A bad disk under the cache once failed every build until the blob was deleted by hand.
#[test]
fn a_blob_damaged_in_the_cache_is_refused_once_and_fetched_again() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let (digest, mut bytes) = layer(&layout);
    let server = Server::start(&layout, |_, _| None);
    workshop.build(&server.image()).unwrap();
    let kept = workshop.path("cache/blobs/sha256").join(digest.trim_start_matches("sha256:"));
    // Without it the blob would not be read.
    fs::remove_dir_all(workshop.path("cache/layers")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&kept, &bytes).unwrap();
    let error = workshop.build(&server.image()).unwrap_err();
    assert!(matches!(error, Error::Layer { .. }), "{}", chain(&error));
    workshop.build(&server.image()).unwrap();
    assert_eq!(fs::read(&kept).unwrap(), layer(&layout).1);
}

#[test]
fn what_passes_is_waited_for_and_what_does_not_is_said() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let server =
        Server::start(&layout, |request, before| match (request.path.contains("manifests"), before) {
            (true, 0) => Some(answer("429 Too Many Requests", "retry-after: 1\r\n", b"")),
            (true, 1) => Some(answer("500 Internal Server Error", "", b"out of sorts")),
            (true, 2) => Some(Vec::new()),
            _ => None,
        });
    let begin = std::time::Instant::now();
    workshop.build(&server.image()).unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1), "did not wait as long as the registry asked");

    let workshop = self::workshop(Network::Missing);
    let busy =
        Server::start(&layout, |_, _| Some(answer("429 Too Many Requests", "retry-after: 7200\r\n", b"")));
    let error = workshop.refuse(&busy.image());
    assert!(chain(&error).contains("7200 s"), "{}", chain(&error));
    assert_eq!(busy.requests("").len(), 1);
    let broken = Server::start(&layout, |_, _| {
        Some(answer("503 Service Unavailable", "", br#"{"errors": [{"message": "in maintenance"}]}"#))
    });
    let error = workshop.refuse(&broken.image());
    assert!(matches!(why(&error), RegistryError::Status { status: 503, .. }), "{}", chain(&error));
    assert!(chain(&error).contains("in maintenance"), "{}", chain(&error));
    assert_eq!(broken.requests("").len(), 5);
}

#[test]
fn a_password_does_not_follow_a_redirect() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let storage = Server::start(&layout, |_, _| None);
    let elsewhere = storage.host.clone();
    let server = Server::start(&layout, move |request, _| {
        if request.authorization() != Some("Basic dXNlcjpzZWNyZXQ=") {
            return Some(answer("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", b""));
        }
        let location = format!("location: http://{elsewhere}{}\r\n", request.path);
        request.path.contains("blobs").then(|| answer("307 Temporary Redirect", &location, b""))
    });
    write_credentials(&workshop, &server.host);
    workshop.build(&server.image()).unwrap();
    assert_eq!(mark(&workshop), "one");
    let asked = storage.requests("blobs");
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|request| request.authorization().is_none()));
}

#[test]
fn a_redirect_over_the_network_in_plain_is_refused() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let server = Server::start(&layout, |_, _| {
        Some(answer("302 Found", "location: http://storage.example/x\r\n", b""))
    });
    let error = workshop.refuse(&server.image());
    assert!(
        matches!(why(&error), RegistryError::Redirect { location, .. } if location.contains("storage.example"))
    );
}

#[test]
fn a_token_is_fetched_with_the_password_and_used_without_it() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let tokens = Server::start(&layout, |_, _| Some(answer("200 OK", "", br#"{"token": "abc"}"#)));
    let realm =
        format!("www-authenticate: Bearer realm=\"http://{}/token\",service=\"here\"\r\n", tokens.host);
    let server = Server::start(&layout, move |request, _| {
        (request.authorization() != Some("Bearer abc")).then(|| answer("401 Unauthorized", &realm, b""))
    });
    // Anonymous first, as for public images.
    workshop.build(&server.image()).unwrap();
    write_credentials(&workshop, &server.host);
    fs::remove_dir_all(workshop.path("cache")).unwrap();
    workshop.build(&server.image()).unwrap();
    let asked = tokens.requests("/token");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].path, "/token?scope=repository%3Aweb%3Apull&service=here");
    assert_eq!(asked[0].authorization(), None);
    assert_eq!(asked[1].authorization(), Some("Basic dXNlcjpzZWNyZXQ="));
    let passwords =
        server.requests("").iter().filter(|r| r.authorization().is_some_and(|a| a.contains("Basic"))).count();
    assert_eq!(passwords, 0);
}

/// Public registries give a token to everybody, and refuse it for an image that is private or not there. Whoever had mistyped
/// a name was told that the stored credentials were wrong, and had none.
#[test]
fn a_token_that_opens_nothing_is_the_names_fault_unless_there_are_credentials() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let tokens = Server::start(&layout, |_, _| Some(answer("200 OK", "", br#"{"token": "abc"}"#)));
    let realm = format!("www-authenticate: Bearer realm=\"http://{}/token\"\r\n", tokens.host);
    let server = Server::start(&layout, move |_, _| Some(answer("401 Unauthorized", &realm, b"")));
    let error = workshop.refuse(&server.image());
    assert!(matches!(why(&error), RegistryError::Unauthorized { known: false, .. }), "{}", chain(&error));
    assert!(chain(&error).contains("check the name"), "{}", chain(&error));
    write_credentials(&workshop, &server.host);
    let error = workshop.refuse(&server.image());
    assert!(matches!(why(&error), RegistryError::Unauthorized { known: true, .. }), "{}", chain(&error));
}

#[test]
fn wrong_bytes_and_lengths_are_refused_and_not_kept() {
    let workshop = workshop(Network::Missing);
    let layout = layout(&workshop, "one", Compression::Gzip);
    let (digest, bytes) = layer(&layout);
    let is_layer = move |request: &Request| request.path.ends_with(&digest);
    let mut bad = bytes.clone();
    bad[1000] ^= 1;
    type Check = fn(&RegistryError) -> bool;
    let cases: [(Answer, Check); 3] = [
        (answer("200 OK", "", &bad), |e| matches!(e, RegistryError::WrongDigest { .. })),
        (answer("200 OK", "", &bytes[..5000]), |e| {
            matches!(e, RegistryError::WrongLength { found: 5000, .. })
        }),
        // No length is promised, and more comes than there should be.
        ([&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], &bytes, b"more"].concat(), |e| {
            matches!(e, RegistryError::WrongLength { .. })
        }),
    ];
    for (bad, is_expected) in cases {
        let is_layer = is_layer.clone();
        let server = Server::start(&layout, move |request, _| is_layer(request).then(|| bad.clone()));
        let error = workshop.refuse(&server.image());
        assert!(is_expected(why(&error)), "{}", chain(&error));
        assert!(!workshop.path("glasshouse.lock").exists());
    }
    // A manifest that is not the one asked for.
    let server = Server::start(&layout, |_, _| Some(answer("200 OK", "", b"{}")));
    let pinned = image(&format!("{}/web@{}", server.host, Digest::of(b"another")));
    assert!(matches!(why(&workshop.refuse(&pinned)), RegistryError::WrongDigest { .. }));
    // Nothing of all that is in the way of an honest registry.
    let honest = Server::start(&layout, |_, _| None);
    workshop.build(&honest.image()).unwrap();
}
