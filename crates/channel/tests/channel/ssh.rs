//! Keys, files, agents and signatures, against OpenSSH itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use channel::ssh::{
    Agent, AgentError, Identity, KeyError, Passphrase, PrivateKey, PrivateKeyError, PublicKey, SignError,
    sign_sshsig, verify_sshsig,
};

use crate::enclave::{soon, ssh_key};

const NAMESPACE: &str = "a-namespace";
const KINDS: [&str; 2] = ["ed25519", "ecdsa"];

fn run(program: &str, arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn keygen(arguments: &[&str]) -> String {
    let (done, output) = run("ssh-keygen", arguments, b"");
    assert!(done, "ssh-keygen {arguments:?}");
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn armoured(signature: &[u8]) -> String {
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", STANDARD.encode(signature))
}

fn unarmoured(text: &str) -> Vec<u8> {
    let base64: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(base64).unwrap()
}

/// What ssh-keygen says about a signature over `message`.
fn keygen_accepts(dir: &Path, key: &PublicKey, signature: &[u8], message: &[u8]) -> bool {
    let (allowed, file) = (dir.join("allowed"), dir.join("signature"));
    fs::write(&allowed, format!("operator {key}\n")).unwrap();
    fs::write(&file, armoured(signature)).unwrap();
    let arguments =
        ["-Y", "verify", "-f", text(&allowed), "-I", "operator", "-n", NAMESPACE, "-s", text(&file)];
    run("ssh-keygen", &arguments, message).0
}

#[tokio::test]
async fn what_we_sign_ssh_keygen_verifies() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let key = ssh_key(dir.path(), kind, kind);
        // More than one signature: the numbers of ECDSA differ in length from time to time.
        for n in 0..20_u8 {
            let signature = sign_sshsig(&key, NAMESPACE, &[n]).await.unwrap();
            assert_eq!(verify_sshsig(&signature, NAMESPACE, &[n]).unwrap(), *key.public_key());
            assert!(verify_sshsig(&signature, NAMESPACE, &[n + 1]).is_err());
            assert!(verify_sshsig(&signature, "another", &[n]).is_err());
            if n == 0 {
                assert!(keygen_accepts(dir.path(), key.public_key(), &signature, &[n]));
                assert!(!keygen_accepts(dir.path(), key.public_key(), &signature, &[n + 1]));
            }
        }
    }
}

#[test]
fn what_ssh_keygen_signs_we_verify() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let key = ssh_key(dir.path(), kind, kind);
        let (path, message) = (dir.path().join(kind), dir.path().join("message"));
        fs::write(&message, b"anything").unwrap();
        let _ = fs::remove_file(dir.path().join("message.sig"));
        keygen(&["-q", "-Y", "sign", "-f", text(&path), "-n", NAMESPACE, text(&message)]);
        let signature = unarmoured(&fs::read_to_string(dir.path().join("message.sig")).unwrap());
        assert_eq!(verify_sshsig(&signature, NAMESPACE, b"anything").unwrap(), *key.public_key());
    }
}

#[test]
fn public_keys_are_read_and_named_as_openssh_does() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let key = ssh_key(dir.path(), kind, kind);
        let line = fs::read_to_string(dir.path().join(format!("{kind}.pub"))).unwrap();
        assert_eq!(line.parse::<PublicKey>().unwrap(), *key.public_key());
        let listed = keygen(&["-l", "-f", text(&dir.path().join(kind))]);
        assert_eq!(listed.split_whitespace().nth(1).unwrap(), key.public_key().fingerprint());
        assert!(line.starts_with(&key.public_key().to_string()));
    }
}

#[test]
fn lines_that_are_no_key_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ed25519 = ssh_key(dir.path(), "key", "ed25519").public_key().to_string();
    let blob = ed25519.split_whitespace().nth(1).unwrap();
    for line in [
        "",
        "ssh-ed25519",
        "hello world",
        &format!("restrict {ed25519}"),
        &format!("ecdsa-sha2-nistp256 {blob}"),
        &format!("ssh-ed25519 {}", &blob[1..]),
        &format!("{ed25519}\nssh-ed25519 {blob}"),
        &format!("ssh-ed25519 {blob} {}", "x".repeat(10_000)),
    ] {
        assert_eq!(line.parse::<PublicKey>(), Err(KeyError::Line), "{line}");
    }
    keygen(&["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", text(&dir.path().join("rsa"))]);
    let rsa = fs::read_to_string(dir.path().join("rsa.pub")).unwrap();
    assert_eq!(rsa.parse::<PublicKey>(), Err(KeyError::Rsa));
    assert!(KeyError::Rsa.to_string().contains("ssh-keygen -t ed25519"));
    let token = "sk-ssh-ed25519@openssh.com AAAA";
    assert!(matches!(token.parse::<PublicKey>(), Err(KeyError::Type { found }) if found.starts_with("sk-")));
}

#[test]
fn points_that_are_not_on_the_curve_are_refused() {
    let mut blob = Vec::new();
    for part in [&b"ecdsa-sha2-nistp256"[..], b"nistp256", &[&[4][..], &[7; 64]].concat()] {
        blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(part);
    }
    assert_eq!(PublicKey::from_blob(&blob), Err(KeyError::Invalid));
}

#[tokio::test]
async fn a_key_with_a_passphrase_asks_once_and_takes_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = dir.path().join(kind);
        keygen(&["-q", "-t", kind, "-N", "open sesame", "-a", "2", "-f", text(&path)]);
        let mut asked = 0;
        let mut load = |passphrase: Option<&str>| {
            PrivateKey::load(&path, &mut || {
                asked += 1;
                passphrase.map(|text| Passphrase::new(text.to_owned()))
            })
        };
        assert!(matches!(load(None), Err(PrivateKeyError::NoPassphrase)));
        for wrong in ["", "open Sesame"] {
            assert!(matches!(load(Some(wrong)), Err(PrivateKeyError::WrongPassphrase)));
        }
        let key = load(Some("open sesame")).unwrap();
        assert_eq!(asked, 4);
        let signature = sign_sshsig(&key, NAMESPACE, b"x").await.unwrap();
        assert!(keygen_accepts(dir.path(), key.public_key(), &signature, b"x"));
    }
}

#[test]
fn key_files_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let never = &mut || -> Option<Passphrase> { panic!("nobody needs a passphrase here") };
    let path = dir.path().join("key");
    assert!(matches!(PrivateKey::load(&path, never), Err(PrivateKeyError::Read { .. })));
    ssh_key(dir.path(), "key", "ed25519");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = PrivateKey::load(&path, never).unwrap_err();
    assert!(error.to_string().contains("(mode 640): chmod 600"), "{error}");

    for (name, options) in [("rsa", &["-t", "rsa", "-b", "2048"][..]), ("pem", &["-t", "rsa", "-m", "PEM"])] {
        let path = dir.path().join(name);
        keygen(&[&["-q", "-N", "", "-f", text(&path)], options].concat());
        let error = PrivateKey::load(&path, never).unwrap_err();
        assert!(matches!(error, PrivateKeyError::Key(KeyError::Rsa)), "{name}: {error}");
    }
    let path = dir.path().join("pkcs8");
    keygen(&["-q", "-N", "", "-t", "ecdsa", "-m", "PKCS8", "-f", text(&path)]);
    assert!(matches!(PrivateKey::load(&path, never), Err(PrivateKeyError::Format)));
    let path = dir.path().join("cipher");
    keygen(&["-q", "-N", "x", "-t", "ed25519", "-Z", "aes128-cbc", "-f", text(&path)]);
    let error = PrivateKey::load(&path, never).unwrap_err();
    assert!(error.to_string().contains("aes128-cbc"), "{error}");
}

#[test]
fn a_key_file_with_any_byte_changed_is_no_other_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = ssh_key(dir.path(), "key", "ed25519");
    let text = fs::read_to_string(dir.path().join("key")).unwrap();
    for position in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let changed = PrivateKey::parse(&String::from_utf8(bytes).unwrap(), &mut || None);
        // The comment and the two equal numbers may be others.
        assert!(changed.map_or(true, |changed| changed.public_key() == key.public_key()), "byte {position}");
    }
}

/// A real agent, ended when this is dropped.
struct RealAgent {
    child: Child,
    dir: tempfile::TempDir,
}

impl RealAgent {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(dir.path().join("socket"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = RealAgent { child, dir };
        soon(async {
            while agent.agent().keys().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        agent
    }

    fn agent(&self) -> Agent {
        Agent::new(&self.dir.path().join("socket"))
    }

    fn add(&self, arguments: &[&str]) {
        let mut command = Command::new("ssh-add");
        let command = command.arg("-q").args(arguments).env("SSH_AUTH_SOCK", self.dir.path().join("socket"));
        assert!(command.stderr(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_agent_lists_its_keys_and_signs() {
    let agent = RealAgent::start().await;
    assert!(agent.agent().keys().await.unwrap().is_empty());
    let dir = tempfile::tempdir().unwrap();
    keygen(&["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", text(&dir.path().join("rsa"))]);
    agent.add(&[text(&dir.path().join("rsa"))]);
    for kind in KINDS {
        ssh_key(dir.path(), kind, kind);
        agent.add(&[text(&dir.path().join(kind))]);
    }
    let keys = agent.agent().keys().await.unwrap();
    assert_eq!(keys.iter().map(|key| key.comment()).collect::<Vec<_>>(), KINDS, "and no RSA key");
    for key in &keys {
        let signature = sign_sshsig(key, NAMESPACE, b"x").await.unwrap();
        assert!(keygen_accepts(dir.path(), key.public_key(), &signature, b"x"));
    }
    agent.add(&["-D"]);
    let error = sign_sshsig(&keys[0], NAMESPACE, b"x").await.unwrap_err();
    assert!(matches!(error, SignError::Agent { source: AgentError::Refused, .. }), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_is_not_there_or_talks_nonsense_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    assert!(matches!(Agent::new(&path).keys().await, Err(AgentError::Unreachable { .. })));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let answers: [&[u8]; 7] = [
        b"",
        &[0, 0, 0],
        &[0xff; 8],
        &[0, 0, 0, 9, 12],
        &[0, 0, 0, 1, 99],
        &[0, 0, 0, 5, 12, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 9, 12, 0, 0, 0, 1, 0, 0, 0, 50],
    ];
    for answer in answers {
        let serve = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let agent = Agent::new(&path);
        let (keys, ()) = soon(async { tokio::join!(agent.keys(), serve) }).await;
        assert!(keys.is_err(), "{answer:?}");
    }
}
