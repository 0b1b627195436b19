//! Which of a person's keys an enclave is shown.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use super::enclave::{Enclave, PROGRAM, eventually, text};

/// An ssh agent of the test's own.
struct Agent {
    socket: PathBuf,
    child: Child,
}

impl Agent {
    fn start(socket: PathBuf) -> Self {
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let child = agent.spawn().expect("ssh-agent is there");
        eventually("the agent listens", || UnixStream::connect(&socket).is_ok());
        Self { socket, child }
    }

    fn add(&self, key: &Path) {
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket);
        assert!(add.stdin(Stdio::null()).status().expect("ssh-add is there").success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_key(path: &Path, passphrase: &str) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-C", "its-comment", "-N", passphrase, "-f"]).arg(path);
    assert!(keygen.status().expect("ssh-keygen is there").success());
}

/// `true` in the enclave, by whoever has this home and agent. No terminal to ask on.
fn enter(enclave: &Enclave, agent: Option<&Agent>, more: &[&str]) -> Output {
    let mut client = Command::new("setsid");
    client.args(["--wait", PROGRAM]);
    client.env("HOME", enclave.path("home")).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CONFIG_HOME");
    if let Some(agent) = agent {
        client.env("SSH_AUTH_SOCK", &agent.socket);
    }
    client.arg("--addr").arg(format!("unix:{}", enclave.path("control").display()));
    client.arg("--root").arg(enclave.path("trusted.pem")).arg("--any-image").args(more);
    client.args(["run", "--", "true"]).stdin(Stdio::null()).output().unwrap()
}

/// Only the first of an agent's keys was shown, and none of them to who had a file.
#[test]
fn keys_are_shown_until_the_enclave_knows_one() {
    let enclave = Enclave::start();
    let folder = enclave.path("home/.ssh");
    std::fs::create_dir_all(&folder).unwrap();
    let nobody = enter(&enclave, None, &[]);
    assert_eq!(nobody.status.code(), Some(125));
    assert!(text(&nobody.stderr).contains("there is no key to say who you are"), "{nobody:?}");

    let agent = Agent::start(enclave.path("agent"));
    agent.add(&enclave.path("mallory"));
    let unknown = enter(&enclave, Some(&agent), &[]);
    assert_eq!(unknown.status.code(), Some(125));
    let said = text(&unknown.stderr);
    assert!(said.contains("not let in with the ssh agent's") && said.contains("unknown key"), "{said}");

    // A key that cannot be used, and one that is not known, before the one that is.
    make_key(&folder.join("id_ed25519"), "secret");
    let locked = enter(&enclave, None, &[]);
    assert!(text(&locked.stderr).contains("ssh-add it"), "{locked:?}");
    make_key(&folder.join("id_ecdsa"), "");
    let unknown = enter(&enclave, Some(&agent), &[]);
    let said = text(&unknown.stderr);
    assert!(said.contains("id_ecdsa (SHA256:") && said.contains(", nor with the ssh agent's"), "{said}");
    agent.add(&enclave.path("alice"));
    let entered = enter(&enclave, Some(&agent), &[]);
    assert_eq!(entered.status.code(), Some(0), "{entered:?}");
}

#[test]
fn a_key_that_is_named_is_the_only_one() {
    let enclave = Enclave::start();
    let agent = Agent::start(enclave.path("agent"));
    agent.add(&enclave.path("alice"));
    let name = |name: &str| enclave.path(name).to_str().unwrap().to_owned();
    let by_agent = enter(&enclave, Some(&agent), &["-i", &name("alice.pub")]);
    assert_eq!(by_agent.status.code(), Some(0), "{by_agent:?}");
    for (key, agent, told) in [
        ("mallory", Some(&agent), "mallory (SHA256:"),
        ("mallory.pub", Some(&agent), "the ssh agent does not have this key"),
        ("alice.pub", None, "name the private key"),
        ("no-such-key", None, "cannot read"),
        ("trusted.pem", None, "trusted.pem"),
    ] {
        let refused = enter(&enclave, agent, &["-i", &name(key)]);
        assert_eq!(refused.status.code(), Some(125), "{key}");
        let said = text(&refused.stderr);
        assert!(said.contains(told) && said.matches(&name(key)).count() <= 1, "{key}: {said}");
    }
}
