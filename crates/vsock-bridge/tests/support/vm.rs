//! A virtual machine with the guest of `examples/guest.rs`, joined to the host by a bridge.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use eif::cpio::{self, Device, Entry, Kind};
use eif::{BuildMetadata, Metadata, Options, Source};
use tempfile::TempDir;
use vsock_bridge::{Bridge, Config, Handle};

use crate::pattern::Checker;
use crate::ports;

/// More than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Vm {
    pub(crate) qemu: Child,
    pub(crate) bridge: Handle,
    dir: TempDir,
}

impl Vm {
    /// Boots a guest and waits until it has announced itself, or says what is missing.
    pub(crate) fn boot() -> Option<Self> {
        let path = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from);
            if path.is_none() {
                eprintln!("skipped: {name} is not set");
            }
            path
        };
        let (qemu, kernel) = (path("GLASSHOUSE_QEMU")?, path("GLASSHOUSE_KERNEL")?);
        let guest = path("GLASSHOUSE_BRIDGE_GUEST")?;
        let dir = tempfile::tempdir().unwrap();
        write_image(&dir.path().join("guest.eif"), &kernel, &guest);
        let heartbeat = listen(dir.path(), ports::HEARTBEAT);
        let config =
            Config { vhost_socket: dir.path().join("vhost"), uds: dir.path().join("vm"), guest_cid: 4 };
        let bridge = Bridge::bind(config).unwrap().spawn().unwrap();
        let mut vm = Self { qemu: start_qemu(&qemu, dir.path()), bridge, dir };
        let mut stream = vm.accept(&heartbeat);
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [ports::HEARTBEAT_BYTE]);
        stream.write_all(&byte).unwrap();
        Some(vm)
    }

    /// Listens for the guest's connections to `port`.
    pub(crate) fn listen(&self, port: u32) -> UnixListener {
        listen(self.dir.path(), port)
    }

    pub(crate) fn accept(&mut self, listener: &UnixListener) -> UnixStream {
        listener.set_nonblocking(true).unwrap();
        let start = Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => return patient(stream),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("cannot accept: {error}"),
            }
            let exit = self.qemu.try_wait().unwrap();
            assert!(exit.is_none() && start.elapsed() < PATIENCE, "QEMU: {exit:?}\n{}", self.console());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Connects to a port of the guest, or is refused.
    pub(crate) fn try_connect(&self, port: u32) -> Option<UnixStream> {
        connect(&self.uds(), port)
    }

    pub(crate) fn connect(&self, port: u32) -> UnixStream {
        self.try_connect(port).unwrap_or_else(|| panic!("port {port} refused\n{}", self.console()))
    }

    pub(crate) fn uds(&self) -> PathBuf {
        self.dir.path().join("vm")
    }

    /// Gives the guest a command and returns its answer.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut stream = self.connect(ports::CONTROL);
        writeln!(stream, "{command}").unwrap();
        line(stream)
    }

    pub(crate) fn console(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    /// What is left in the directory of the sockets.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with('v')).collect()
    }

    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.qemu.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "QEMU does not end\n{}", self.console());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Connects to a port of the guest through a bridge, or is refused.
pub(crate) fn connect(uds: &Path, port: u32) -> Option<UnixStream> {
    let mut stream = patient(UnixStream::connect(uds).unwrap());
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    let expected = format!("OK {port}\n");
    let mut answer = vec![0; expected.len()];
    match stream.read(&mut answer[..1]).unwrap() {
        0 => return None,
        _ => stream.read_exact(&mut answer[1..]).unwrap(),
    }
    assert_eq!(answer, expected.as_bytes());
    Some(stream)
}

/// A stream that fails rather than wait for ever.
pub(crate) fn patient(stream: UnixStream) -> UnixStream {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The one line that a peer sends before it ends.
pub(crate) fn line(stream: UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Reads a pattern to the end of its stream and gives the verdict.
pub(crate) fn check(stream: &mut impl Read) -> String {
    let mut checker = Checker::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return checker.verdict(),
            count => checker.take(&buffer[..count]),
        }
    }
}

fn listen(dir: &Path, port: u32) -> UnixListener {
    UnixListener::bind(dir.join(format!("vm_{port}"))).unwrap()
}

fn start_qemu(qemu: &Path, dir: &Path) -> Child {
    let socket = format!("socket,id=c,path={}", dir.join("vhost").display());
    let mut command = Command::new(qemu);
    if let Some(share) = qemu.parent().and_then(Path::parent).map(|prefix| prefix.join("share")) {
        command.arg("-L").arg(share);
    }
    command.args([
        "-M",
        "nitro-enclave,vsock=c,id=bridge-test",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "256M",
    ]);
    command.args([
        "-display",
        "none",
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        "-append",
        "reboot=t panic=1",
    ]);
    command.args(["-chardev", &socket, "-kernel"]).arg(dir.join("guest.eif"));
    command.arg("-serial").arg(format!("file:{}", dir.join("console").display()));
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// An image with the guest as `/init` and nothing else.
fn write_image(path: &Path, kernel: &Path, guest: &Path) {
    let metadata = Metadata {
        image_name: "bridge-test".into(),
        image_version: "1".into(),
        build: BuildMetadata {
            build_time: "1970-01-01T00:00:00+00:00".into(),
            build_tool: "bridge-test".into(),
            build_tool_version: "1".into(),
            operating_system: "Linux".into(),
            kernel_version: "6.12".into(),
        },
        docker_info: serde_json::Value::Null,
        custom: serde_json::Value::Null,
    };
    let cmdline = "reboot=k panic=30 pci=off console=ttyS0 random.trust_cpu=on nomodules quiet";
    let file = File::create(path).unwrap();
    let mut image =
        eif::Writer::create(file, &Options::default(), Source::file(kernel), cmdline, &metadata).unwrap();
    image.ramdisk(Source::bytes(&ramdisk(guest))).unwrap();
    image.finish(None).unwrap();
}

fn ramdisk(guest: &Path) -> Vec<u8> {
    let program = std::fs::read(guest).unwrap();
    let entry =
        |name: &[u8], permissions, kind| Entry { name: name.to_vec(), permissions, uid: 0, gid: 0, kind };
    let mut archive = cpio::Writer::new(Vec::new());
    archive.entry(&entry(b"dev", 0o755, Kind::Directory)).unwrap();
    archive
        .entry(&entry(b"dev/console", 0o600, Kind::CharacterDevice(Device { major: 5, minor: 1 })))
        .unwrap();
    let init = entry(b"init", 0o755, Kind::File { size: program.len() as u64, link: None });
    archive.file(&init, &mut program.as_slice()).unwrap();
    archive.finish().unwrap()
}
