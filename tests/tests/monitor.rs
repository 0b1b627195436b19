//! Files of a running enclave, from the image to an auditor's answer: what they are, were, and never were.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::PathBuf,
    process::Output,
};

use bed::{Bed, LIMIT, Running, text, until, utf8};

/// A shell on a port, so that a test can say what the application does, and when.
const SHELL: &str = "exec busybox nc -ll -p 8080 -e /bin/sh";

/// An image with watched files and that shell.
fn image(bed: &Bed, name: &str, monitor: &str) -> PathBuf {
    let manifest = format!(
        "name = \"{name}\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 384\npublish = [{{ port = 8080 }}]\n\
         [monitor]\nroots = [\"/app\", \"/bin\"]\nignore = [\"*.log\"]\ndigests = [\"sha256\"]\n{monitor}\n\
         [app]\ncommand = [\"/bin/busybox\", \"sh\", \"-c\", \"{SHELL}\"]\nready = \"tcp:8080\"\n"
    );
    let dir = bed.manifest(name, &manifest);
    fs::create_dir_all(dir.join("rootfs/app/config")).unwrap();
    fs::write(dir.join("rootfs/app/config/settings"), "mode = safe\n").unwrap();
    let image = bed.path(&format!("{name}.eif"));
    bed.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
    image
}

/// Has the application run a line, and waits for its end.
fn tell(enclave: &Running<'_>, line: &str) -> String {
    let mut stream = TcpStream::connect(enclave.address(8080)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    writeln!(stream, "{line}; echo done").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("done\n"), "{line}: {answer}");
    answer
}

/// An auditor with the image, the development root and one running enclave.
struct Auditor<'a> {
    bed: &'a Bed,
    image: PathBuf,
    root: String,
    url: String,
}

impl Auditor<'_> {
    fn verify(&self, words: &[&str]) -> Output {
        let fixed =
            ["verify", &self.url, "--image", utf8(&self.image), "--root", &self.root, "--timeout", "60"];
        self.bed.run(&[&fixed, words].concat())
    }

    fn yes(&self, words: &[&str]) -> String {
        let output = self.verify(words);
        assert!(output.status.success(), "{words:?}\n{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn no(&self, words: &[&str]) {
        let output = self.verify(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}\n{}", text(&output));
    }

    /// Asks until the answer is yes: a change is recorded soon, not at once.
    fn soon(&self, words: &[&str]) {
        let mut last = None;
        let answered = until(LIMIT, || {
            let output = self.verify(words);
            let yes = output.status.success();
            last = Some(output);
            yes
        });
        assert!(answered, "{words:?}\n{}", last.map(|output| text(&output)).unwrap_or_default());
    }
}

fn digest(content: &str) -> String {
    format!("blake3:{}", blake3::hash(content.as_bytes()).to_hex())
}

fn watched_files_are_proved(bed: &Bed) {
    let image = image(bed, "watched", "");
    let reference = fs::read_to_string(image.with_added_extension("json")).unwrap();
    assert!(reference.contains("manifest_sha384") && !reference.contains("\"16\""), "{reference}");
    let enclave = bed.start(&image, "watched", &[8443, 8080]);
    let auditor = Auditor { bed, image, root: bed.root(), url: enclave.url() };
    // What the image holds, and what it never held.
    let settings = digest("mode = safe\n");
    auditor.yes(&["--file", "/app/config/settings", "--expect", &settings, "--absent", "/app/none"]);
    auditor.no(&["--file", "/app/config/settings", "--expect", &digest("mode = unsafe\n")]);
    auditor.no(&["--absent", "/app/config/settings"]);
    let checkpoint = bed.path("checkpoint");
    auditor.yes(&["--save-checkpoint", utf8(&checkpoint)]);
    watching_wakes(&enclave, &auditor);
    // Added, then changed, then removed.
    tell(&enclave, "echo one > /app/added; echo x > /app/noise.log");
    auditor.soon(&["--file", "/app/added", "--expect", &digest("one\n")]);
    tell(&enclave, "echo two > /app/added");
    auditor.soon(&["--file", "/app/added", "--expect", &digest("two\n"), "--since", utf8(&checkpoint)]);
    let history = auditor.yes(&["--history", "/app/added", "--json"]);
    for content in ["one\n", "two\n"] {
        let hex = digest(content)["blake3:".len()..].to_owned();
        assert!(history.contains(&hex), "{history}");
    }
    tell(&enclave, "busybox rm /app/added");
    auditor.soon(&["--absent", "/app/added"]);
    // Nothing can be said of what the manifest has ignored.
    auditor.no(&["--absent", "/app/noise.log"]);
    auditor.yes(&["--file", "/bin/busybox"]);
}

/// Between two answers are ten minutes, unless something is recorded.
fn watching_wakes(enclave: &Running<'_>, auditor: &Auditor<'_>) {
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| auditor.verify(&["--watch", "600", "--times", "2"]));
        let mut number = 0;
        let woken = until(LIMIT, || {
            number += 1;
            tell(enclave, &format!("echo {number} > /app/number"));
            watching.is_finished()
        });
        assert!(woken, "the watch sleeps");
        let output = watching.join().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    });
}

#[test]
fn watched_files_are_proved_on_local() {
    if let Some(bed) = Bed::local() {
        watched_files_are_proved(&bed);
    }
}

#[test]
fn watched_files_are_proved_on_qemu() {
    if let Some(bed) = Bed::qemu() {
        watched_files_are_proved(&bed);
    }
}

/// A machine can hold programs, namespaces cannot: there the enclave does not start, unless the manifest lets it.
#[test]
fn what_cannot_be_held_does_not_start() {
    let Some(bed) = Bed::local() else { return };
    let required = image(&bed, "required", "enforce = true");
    let output = bed.run(&[bed.run_args(&required), vec!["--name", "required"]].concat());
    let said = text(&output);
    assert!(!output.status.success() && said.contains("cannot hold programs that open files"), "{said}");
    let preferred = image(&bed, "preferred", "enforce = \"prefer\"");
    let enclave = bed.start(&preferred, "preferred", &[8443, 8080]);
    assert_eq!(tell(&enclave, "cat /app/config/settings"), "mode = safe\ndone\n");
}

#[test]
fn a_machine_holds_who_opens_files() {
    let Some(bed) = Bed::qemu() else { return };
    let evil = digest("evil\n");
    let image = image(&bed, "held", &format!("enforce = true\ndeny = [\"/app/closed\", \"{evil}\"]"));
    let enclave = bed.start(&image, "held", &[8443, 8080]);
    let auditor = Auditor { bed: &bed, image, root: bed.root(), url: enclave.url() };
    tell(&enclave, "echo good > /app/x");
    assert_eq!(tell(&enclave, "cat /app/x"), "good\ndone\n");
    // Recorded before it was read, so there is nothing to wait for.
    auditor.yes(&["--file", "/app/x", "--expect", &digest("good\n")]);
    assert_eq!(tell(&enclave, "echo evil > /app/y; cat /app/y"), "done\n");
    assert_eq!(tell(&enclave, "echo x > /app/closed; cat /app/closed"), "done\n");
    // That the monitor ends with the enclave was once taken for a failure of its own, and had the status 125.
    bed.ok(&["stop", "held"]);
    let ended = bed.instance("held").expect("it is kept");
    assert!(ended["status"] == "exited" && ended["code"] != 125, "{ended}");
}
