//! A certificate that browsers accept, ordered from Pebble, the test authority of Let's Encrypt, in a network namespace of
//! the test's own.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use attestation::Sha256;
use nsm::sim::{DevelopmentRoot, SimulatedNsm};
use ra_web_srv::{AcmeConfig, Config, Server};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use x509_cert::der::{Decode, Encode};

const DOMAIN: &str = "agent.example.test";

/// Where everything listens in the namespace, as [`CONFIG`] says.
const SERVER: &str = "127.0.0.1:8443";
const DIRECTORY: &str = "https://127.0.0.1:14000/dir";
const ROOT: &str = "https://127.0.0.1:15000/roots/0";

const CONFIG: &str = r#"{"pebble": {
    "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
    "certificate": "pebble.pem", "privateKey": "pebble.key", "httpPort": 5002, "tlsPort": 8443
}}"#;

/// Says that the test is in its namespace.
const INSIDE: &str = "GLASSHOUSE_TEST_ACME_INSIDE";

/// Everything that is waited for comes within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(100);

#[test]
fn an_authority_certifies_the_attested_key() {
    if env::var_os(INSIDE).is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(inside());
        return;
    }
    let answers = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let possible = answers("unshare", &["-Urn", "true"]) && Path::new("/usr/bin/pebble").exists();
    if !possible {
        println!("skipped: ACME (needs pebble and user namespaces)");
        return;
    }
    let name = "an_authority_certifies_the_attested_key";
    let output = Command::new("timeout")
        .args(["240", "unshare", "-Urn", "--kill-child"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(dir: &Path, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).env("PEBBLE_VA_NOSLEEP", "1").stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The certificate of Pebble's own server, and its issuer's file.
fn certify_pebble(dir: &Path) -> PathBuf {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(dir.join("pebble.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("pebble.key"), key.serialize_pem()).unwrap();
    dir.join("pebble.pem")
}

async fn inside() {
    sys::pid1::raise_loopback().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let trusted = certify_pebble(dir.path());
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    let names = ["-dns01", "127.0.0.1:8053", "-http01", "", "-https01", "", "-tlsalpn01", ""];
    let names = [&names[..], &["-management", "127.0.0.1:8055", "-defaultIPv6", ""]].concat();
    let _names = Running::start(dir.path(), "pebble-challtestsrv", &names);
    let _pebble =
        Running::start(dir.path(), "pebble", &["-config", "config.json", "-dnsserver", "127.0.0.1:8053"]);
    // Its root is another one at each start.
    let root = until(|| fetch(&trusted, ROOT)).await;

    let development = DevelopmentRoot::load_or_create(dir.path()).unwrap();
    let module = SimulatedNsm::new(&development, "i-0123456789abcdef0-enc0123456789abcdef", &[]).unwrap();
    let acme = AcmeConfig {
        directory: DIRECTORY.to_owned(),
        domains: vec![DOMAIN.to_owned()],
        contacts: vec!["mailto:operator@example.test".to_owned()],
        roots: vec![CertificateDer::from_pem_file(&trusted).unwrap()],
    };
    let listen = vec![format!("tcp://{SERVER}").parse().unwrap()];
    let config = Config { listen, acme: Some(acme), ..Config::default() };
    let server = Server::bind(config, Arc::new(module)).await.unwrap();
    let attested = server.key_digest();
    tokio::spawn(server.run(std::future::pending()));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&root).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = TlsConnector::from(Arc::new(client));
    let seen = until(|| certified_key(client.clone())).await;
    assert_eq!(seen, attested, "the authority certified the key that documents name");
}

/// As browsers do: the chain has to lead to the authority's root, and the name has to be in the certificate.
async fn certified_key(client: TlsConnector) -> Option<Sha256> {
    let stream = tokio::net::TcpStream::connect(SERVER).await.ok()?;
    let stream = client.connect(ServerName::try_from(DOMAIN).unwrap(), stream).await.ok()?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap().first().unwrap().clone();
    let leaf = x509_cert::Certificate::from_der(&leaf).unwrap();
    Some(Sha256::of(&leaf.tbs_certificate().subject_public_key_info().to_der().unwrap()))
}

async fn fetch(trusted: &Path, url: &str) -> Option<Vec<u8>> {
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--fail", "--max-time", "10", "--cacert"])
        .arg(trusted)
        .arg(url)
        .output()
        .await
        .unwrap();
    output.status.success().then_some(output.stdout)
}

/// Asks until there is an answer.
async fn until<T, F: Future<Output = Option<T>>>(ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("an answer in time")
}
