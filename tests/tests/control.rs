//! An operator in an enclave, from the first command to the seal, and what an auditor sees of it.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use bed::{Bed, LIMIT, Running, finish, text, until, utf8};

/// A key pair made by OpenSSH; the path of its private half.
fn key(bed: &Bed, name: &str) -> PathBuf {
    let path = bed.path(name);
    let made = finish(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", utf8(&path)]));
    assert!(made.status.success(), "{}", text(&made));
    path
}

/// An image that the key in `path` may enter with these capabilities.
fn image(bed: &Bed, name: &str, key: &Path, may: &str) -> PathBuf {
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let operator =
        format!("[[control.operator]]\nname = \"alice\"\nkey = {:?}\nmay = [{may}]", public.trim());
    bed.shell_image(name, "exec sleep 600", &operator)
}

/// The control channel of a running enclave.
struct Operator<'a> {
    bed: &'a Bed,
    _enclave: Running<'a>,
    url: String,
    name: &'static str,
    image: PathBuf,
    key: PathBuf,
}

impl<'a> Operator<'a> {
    fn of(bed: &'a Bed, name: &'static str, may: &str) -> Self {
        let key = key(bed, "key");
        let image = image(bed, name, &key, may);
        let enclave = bed.start(&image, name, &[8443]);
        Self { bed, url: enclave.url(), _enclave: enclave, name, image, key }
    }

    /// A verb of `glasshouse` with the operator's key.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bed.command(args);
        command.env("PIPELINE_IDENTITY", &self.key);
        command
    }

    fn exec(&self, words: &[&str]) -> Output {
        finish(&mut self.command(&[&["exec", self.name, "--"], words].concat()))
    }

    fn cp(&self, args: &[&str]) -> Output {
        finish(&mut self.command(&[&["cp", "--quiet"], args].concat()))
    }

    /// A verb of `pipeline`, with everything given as somebody on another machine would give it.
    fn pipeline(&self, words: &[&str]) -> Output {
        let addr = self.bed.instance(self.name).unwrap()["control"].as_str().unwrap().to_owned();
        let reference = self.image.with_added_extension("json");
        let root = self.bed.root();
        let mut command = Command::new(self.bed.bin().join("pipeline"));
        command.args([
            "--addr",
            &addr,
            "--reference",
            utf8(&reference),
            "--root",
            &root,
            "-i",
            utf8(&self.key),
        ]);
        finish(command.args(words))
    }

    /// Whether an auditor with this option accepts the enclave.
    fn verifies(&self, option: &str) -> bool {
        let (root, image) = (self.bed.root(), utf8(&self.image));
        let output = self.bed.run(&["verify", &self.url, "--image", image, "--root", &root, option]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output));
        output.status.success()
    }
}

fn entered_and_traced(bed: &Bed) {
    let operator = Operator::of(bed, "entered", r#""exec", "read:/", "services", "write:/srv""#);
    assert!(operator.verifies("--never-entered") && !operator.verifies("--sealed"));

    let status = operator.exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((&*status.stdout, &*status.stderr), (&b"out\n"[..], &b"err\n"[..]), "{}", text(&status));
    assert_eq!(status.status.code(), Some(7));
    assert_eq!(operator.exec(&["/bin/sh", "-c", "kill -9 $$"]).status.code(), Some(128 + 9));
    assert!(!operator.verifies("--never-entered"), "somebody has entered");

    // The application's root, without the security module and init's files.
    let seen = operator.exec(&["/bin/sh", "-c", "echo /dev/nsm* /run/glasshouse-private* /glasshouse*"]);
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout).trim(),
        "/dev/nsm* /run/glasshouse-private* /glasshouse*"
    );

    assert!(operator.exec(&["/bin/busybox", "mkdir", "/srv"]).status.success());
    // More than the windows and buffers of every layer.
    let content: Vec<u8> =
        (0..1_250_000_u32).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(bed.path("content"), &content).unwrap();
    for args in [["content", "entered:/srv/content"], ["entered:/srv/content", "back"]] {
        let copied = operator.cp(&args);
        assert!(copied.status.success(), "{}", text(&copied));
    }
    assert!(
        fs::read(bed.path("back")).unwrap() == content,
        "the bytes that came back are those that went in"
    );
    let mut through = operator.command(&["exec", "entered", "--", "/bin/cat"]);
    let mut child = through.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = content.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == content, "{}", output.status);

    let outside = operator.cp(&["content", "entered:/etc/content"]);
    assert_eq!(outside.status.code(), Some(1), "{}", text(&outside));
    assert!(String::from_utf8_lossy(&outside.stderr).contains("write:/etc/content"), "{}", text(&outside));

    let services = operator.pipeline(&["services", "--json"]);
    assert!(String::from_utf8_lossy(&services.stdout).contains(r#""service":"app""#), "{}", text(&services));
    let transcript = operator.pipeline(&["transcript"]);
    let told = String::from_utf8_lossy(&transcript.stdout);
    assert!(transcript.status.success(), "{}", text(&transcript));
    assert!(told.contains("alice") && told.contains("exit 7") && told.contains("/srv/content"), "{told}");
}

fn sealed_for_good(bed: &Bed) {
    let operator = Operator::of(bed, "sealed", r#""exec", "seal""#);
    let stranger = Operator {
        key: key(bed, "stranger"),
        url: operator.url.clone(),
        image: operator.image.clone(),
        ..operator
    };
    let refused = stranger.exec(&["/bin/true"]);
    assert_eq!(refused.status.code(), Some(125), "{}", text(&refused));
    let operator = Operator { key: bed.path("key"), ..stranger };
    assert!(operator.verifies("--never-entered"), "who is refused has not entered");

    let sealed = operator.pipeline(&["seal"]);
    assert!(sealed.status.success(), "{}", text(&sealed));
    assert!(operator.verifies("--sealed") && operator.verifies("--never-entered"));
    let refused = operator.exec(&["/bin/true"]);
    assert_eq!(refused.status.code(), Some(125), "{}", text(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sealed"), "{}", text(&refused));
}

/// The application waits for its secret, is the only one to read it, and the transcript does not tell it.
fn secrets_from_an_operator(bed: &Bed) {
    let key = key(bed, "key");
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    // In namespaces there is no other user.
    let user = if bed.is_local() { "root" } else { "web" };
    let script = "/bin/id -u; exec /bin/cat $CREDENTIALS_DIRECTORY/token - < /dev/zero | /bin/head -c 40";
    let image = bed.build(
        "secretive",
        &format!(
            "name = \"secretive\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 256\n[app]\nuser = {user:?}\n\
             command = [\"/bin/sh\", \"-c\", {script:?}]\nsecrets = [\"token\"]\n[[control.operator]]\n\
             name = \"alice\"\nkey = {:?}\nmay = [\"secrets\"]\n",
            public.trim()
        ),
    );
    // Who starts it in the background does not wait for operators.
    let enclave = bed.start(&image, "secretive", &[8443]);
    assert_eq!(bed.instance("secretive").unwrap()["status"], "awaiting_secrets");
    // Once it answered nobody until it was ready: so nobody could look at it before the secrets were in it.
    let (url, image, root) = (enclave.url(), utf8(&image), bed.root());
    bed.ok(&["verify", &url, "--image", image, "--root", &root, "--never-entered"]);
    let secrets = |words: &[&str], input: &[u8]| {
        let mut command = bed.command(&[&["secrets"], words].concat());
        command.env("PIPELINE_IDENTITY", &key);
        fs::write(bed.path("value"), input).unwrap();
        finish(command.stdin(fs::File::open(bed.path("value")).unwrap()))
    };
    let listed = secrets(&["list", "secretive", "--json"], b"");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed, serde_json::json!({ "secret": "token", "service": "app", "given": false }));
    let other = secrets(&["set", "secretive", "password"], b"x");
    assert_eq!(other.status.code(), Some(1), "{}", text(&other));
    let set = secrets(&["set", "secretive", "token"], b"the value\n");
    assert!(set.status.success(), "{}", text(&set));
    assert!(until(LIMIT, || bed.instance("secretive").unwrap()["status"] == "exited"));
    let logs = bed.ok(&["logs", "secretive"]);
    let id = if bed.is_local() { "0" } else { "33" };
    assert!(logs.contains(&format!("{id}\n")) && logs.contains("the value\n"), "{logs}");
}

#[test]
fn an_application_starts_when_its_operator_has_given_its_secrets() {
    for bed in [Bed::local(), Bed::qemu()].into_iter().flatten() {
        secrets_from_an_operator(&bed);
    }
}

#[test]
fn an_operators_session_is_exact_and_leaves_its_trace() {
    for bed in [Bed::local(), Bed::qemu()].into_iter().flatten() {
        entered_and_traced(&bed);
    }
}

#[test]
fn a_sealed_enclave_admits_nobody_and_says_so() {
    for bed in [Bed::local(), Bed::qemu()].into_iter().flatten() {
        sealed_for_good(&bed);
    }
}

#[test]
fn an_image_without_operators_has_no_way_in() {
    let Some(bed) = Bed::local() else { return };
    let image = bed.shell_image("closed", "exec sleep 600", "");
    let _enclave = bed.start(&image, "closed", &[]);
    let refused = bed.run(&["exec", "closed", "--", "/bin/true"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[[control.operator]]"), "{}", text(&refused));
    assert!(bed.instance("closed").unwrap().get("control").is_none());
}
