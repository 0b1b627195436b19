//! A bed for end-to-end tests: the commands as built, folders of their own, images made of a static shell.
//!
//! What the tests need is named by environment variables that `tools/test` sets; a test whose needs are not met says
//! `skipped: ...` and passes, and `tools/test` repeats those lines at its end.

#![forbid(unsafe_code)]

pub mod programs;

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// The longest any single command may take.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Folders and commands of one test.
#[derive(Debug)]
pub struct Bed {
    dir: TempDir,
    bin: PathBuf,
    backend: &'static str,
}

impl Bed {
    /// A bed for the `local` backend; `None`, with a line that says so, when the commands have not been built.
    pub fn local() -> Option<Self> {
        Self::new("local", &["GLASSHOUSE_BIN"])
    }

    /// A bed for the `qemu` backend.
    pub fn qemu() -> Option<Self> {
        Self::new("qemu", &["GLASSHOUSE_BIN", "GLASSHOUSE_QEMU"])
    }

    #[expect(clippy::print_stdout, reason = "the line tells who runs the tests what was not tested")]
    fn new(backend: &'static str, needs: &[&str]) -> Option<Self> {
        for need in needs {
            if env::var_os(need).is_none() {
                println!("skipped: end-to-end test on {backend} (set {need}; `make test` does)");
                return None;
            }
        }
        let bin = env::var_os("GLASSHOUSE_BIN").map(PathBuf::from)?;
        // A short path: the sockets below it have to fit a Unix address.
        let dir = TempDir::with_prefix_in("gh", "/tmp").expect("/tmp can be written");
        Some(Self { dir, bin, backend })
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The commands' folder.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Whether enclaves run in namespaces of this machine.
    pub fn is_local(&self) -> bool {
        self.backend == "local"
    }

    /// `glasshouse` with these arguments, with its state and its development root in the test's folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("glasshouse"));
        command
            .args(args)
            .env("GLASSHOUSE_STATE", self.path("s"))
            .env("GLASSHOUSE_DATA", self.path("data"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// A shell that runs `script` in a network, mounts and processes of its own, with `glasshouse` and these arguments as the
    /// script's arguments. Needs root.
    pub fn beside(&self, script: &str, args: &[&str]) -> Command {
        let inner = self.command(args);
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", "-euc", script, "bash"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(self.dir.path());
        command
    }

    /// Runs `glasshouse` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        finish(&mut self.command(args))
    }

    /// Runs `glasshouse` and expects it to succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "glasshouse {args:?}\n{}", text(&output));
        String::from_utf8(output.stdout).expect("results are text")
    }

    /// Writes `text` as the manifest in the folder `name`, with a root file system of a static shell and `hello_agent`.
    pub fn manifest(&self, name: &str, text: &str) -> PathBuf {
        let dir = self.path(name);
        let bin = dir.join("rootfs/bin");
        fs::create_dir_all(&bin).expect("the test's folder can be written");
        fs::create_dir_all(dir.join("rootfs/etc")).expect("the test's folder can be written");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in ["sh", "sleep", "kill", "cat", "echo", "true", "id", "yes", "head"] {
            let link = bin.join(applet);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link).expect("the test's folder can be written");
            }
        }
        fs::write(dir.join("rootfs/etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
            .expect("the test's folder can be written");
        fs::write(dir.join("rootfs/etc/group"), "root:x:0:\nweb:x:33:\n")
            .expect("the test's folder can be written");
        fs::copy(self.bin.join("hello_agent"), dir.join("rootfs/hello_agent")).expect("hello_agent is built");
        fs::write(dir.join("glasshouse.toml"), text).expect("the test's folder can be written");
        dir
    }

    /// Builds an image called `name` whose main service runs `script` in a shell.
    pub fn shell_image(&self, name: &str, script: &str, more: &str) -> PathBuf {
        let command = serde_json::to_string(&["/bin/sh", "-c", script]).expect("strings serialise");
        let text = format!(
            "name = \"{name}\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 256\n{more}\n[app]\ncommand = {command}\n"
        );
        self.build(name, &text)
    }

    /// Builds an image of `hello_agent`.
    pub fn hello_image(&self, name: &str) -> PathBuf {
        self.build(name, &hello_manifest(name))
    }

    /// Builds the image of this manifest, with the files of [`Bed::manifest`].
    pub fn build(&self, name: &str, manifest: &str) -> PathBuf {
        let dir = self.manifest(name, manifest);
        let image = self.path(&format!("{name}.eif"));
        self.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
        image
    }

    /// Starts an image in the background with these ports published, and waits until it is ready.
    pub fn start<'a>(&'a self, image: &Path, name: &str, ports: &[u16]) -> Running<'a> {
        let publish: Vec<String> = ports.iter().map(|port| format!("--publish=0:{port}")).collect();
        let mut args = vec!["run", utf8(image), "--detach", "--name", name, "--backend", self.backend];
        args.extend(publish.iter().map(String::as_str));
        self.ok(&args);
        Running { bed: self, name: name.to_owned() }
    }

    /// Arguments that run an image in the foreground.
    pub fn run_args<'a>(&self, image: &'a Path) -> Vec<&'a str> {
        vec!["run", utf8(image), "--backend", self.backend]
    }

    /// The path of the development root's certificate.
    pub fn root(&self) -> String {
        self.ok(&["dev-root"]).trim().to_owned()
    }

    /// What `glasshouse ps --json` says of an enclave, ended ones included.
    pub fn instance(&self, name: &str) -> Option<Value> {
        self.ok(&["ps", "--all", "--json"])
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("ps prints JSON"))
            .find(|instance| instance["name"] == name)
    }

    /// What is left in the state folder of an enclave.
    pub fn leftovers(&self, name: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("s").join(name)) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Processes of this test's enclaves: those whose command line names its folder, and those in a mount namespace that
    /// has a part of it mounted.
    pub fn processes(&self) -> Vec<i32> {
        let needle = self.dir.path().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let mentions = |file: &str| {
                // A process may end while it is looked at.
                let text = fs::read(entry.path().join(file)).unwrap_or_default();
                text.windows(needle.len()).any(|window| window == needle)
            };
            if mentions("cmdline") || mentions("mountinfo") {
                found.push(pid);
            }
        }
        found
    }
}

/// An enclave in the background, stopped when dropped.
#[derive(Debug)]
pub struct Running<'a> {
    bed: &'a Bed,
    name: String,
}

impl Running<'_> {
    /// The address on this machine that leads to the enclave's port.
    pub fn address(&self, port: u16) -> String {
        let instance = self.bed.instance(&self.name).expect("the enclave runs");
        let published = instance["publish"].as_array().expect("ports").clone();
        let entry = published.iter().find(|p| p["enclave"] == port).expect("the port is published");
        entry["host"].as_str().expect("an address").to_owned()
    }

    /// The URL of the attestation server.
    pub fn url(&self) -> String {
        format!("https://{}", self.address(8443))
    }

    /// The process that watches over it.
    pub fn supervisor(&self) -> i32 {
        let instance = self.bed.instance(&self.name).expect("the enclave runs");
        i32::try_from(instance["supervisor"].as_i64().expect("a process id")).expect("a process id")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have been stopped by the test itself.
        let _ = self.bed.run(&["stop", &self.name]);
    }
}

/// The manifest of an image of `hello_agent`.
pub fn hello_manifest(name: &str) -> String {
    format!(
        "name = \"{name}\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 256\npublish = [{{ port = 8080 }}]\n\
         [app]\ncommand = [\"/hello_agent\"]\nready = \"tcp:8080\"\n"
    )
}

/// The body of a plain HTTP answer.
pub fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the port answers");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout can be set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer arrives");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

/// Runs a command to its end, which must come within [`LIMIT`].
pub fn finish(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let id = rustix::process::Pid::from_child(&child);
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watch = done.clone();
    std::thread::spawn(move || {
        if !until(LIMIT, || watch.load(std::sync::atomic::Ordering::Relaxed)) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("the command ends");
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    output
}

/// Waits for a child's end, which must come within [`LIMIT`].
pub fn ended(child: &mut Child) -> bool {
    until(LIMIT, || child.try_wait().expect("the child can be waited for").is_some())
}

/// Whether `condition` holds before `limit` is over.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(50));
    }
}

/// What a command printed, for the message of a failed assertion.
pub fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\nstdout:\n{out}\nstderr:\n{err}", output.status)
}

/// A path of the test's as text.
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("paths of a test are UTF-8")
}
