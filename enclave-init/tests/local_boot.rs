//! Init boots in fresh namespaces, as on the `local` backend, with the host's side played by these tests.
//!
//! This one program is init, the services and the tests, by the name it is called with; hence no test harness. Needs
//! `unshare` and user namespaces, but not root; without them it says so and passes over the tests.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program, which clippy sees only in its harness"
)]

use std::{
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    panic::catch_unwind,
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use enclave_init::{
    HEARTBEAT_BYTE,
    event::{Cause, Event, Exit, Health, LogStream, Outcome, Record, ServiceState},
};
use manifest::{
    Enforce, Healthcheck, Measured, Monitor, OnUnhealthy, Publish, Readiness, Restart, Service, StopSignal,
};
use nsm::{
    Pcr, PcrIndex, Provider,
    sim::{DevelopmentRoot, ServerHandle, SimulatedNsm, serve_module},
};

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().collect();
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    match (word(0), word(1)) {
        (_, "pf-proxy") => service::proxy(),
        (_, "fs-monitor") => service::monitor(),
        ("/init", _) => enclave_init::main_entry(std::env::args_os().skip(1)),
        ("/app", mode) => service::run(mode),
        _ => run_tests(words.iter().skip(1).find(|word| !word.starts_with('-'))),
    }
}

const TESTS: [(&str, fn()); 14] = [
    (
        "a_health_check_makes_ready_and_reports_and_the_stop_signal_is_the_manifests",
        a_health_check_makes_ready_and_reports_and_the_stop_signal_is_the_manifests,
    ),
    ("a_health_check_that_hangs_restarts_its_service", a_health_check_that_hangs_restarts_its_service),
    (
        "reports_every_line_in_order_and_the_exact_exit_status",
        reports_every_line_in_order_and_the_exact_exit_status,
    ),
    ("measures_the_manifest_before_anything_starts", measures_the_manifest_before_anything_starts),
    ("a_signalled_main_service_is_reported_as_such", a_signalled_main_service_is_reported_as_such),
    (
        "restarts_a_killed_service_and_shuts_down_on_request",
        restarts_a_killed_service_and_shuts_down_on_request,
    ),
    ("leaves_no_zombies_and_nothing_of_an_ended_service", leaves_no_zombies_and_nothing_of_an_ended_service),
    ("a_service_that_is_never_ready_stops_the_start", a_service_that_is_never_ready_stops_the_start),
    (
        "a_host_that_stops_reading_does_not_stop_the_enclave",
        a_host_that_stops_reading_does_not_stop_the_enclave,
    ),
    (
        "a_host_that_is_not_there_does_not_stop_the_enclave",
        a_host_that_is_not_there_does_not_stop_the_enclave,
    ),
    ("confines_services", confines_services),
    ("starts_nothing_it_cannot_measure", starts_nothing_it_cannot_measure),
    (
        "measures_what_the_monitor_found_before_anything_starts",
        measures_what_the_monitor_found_before_anything_starts,
    ),
    ("ends_without_its_monitor", ends_without_its_monitor),
];

fn run_tests(filter: Option<&String>) -> ExitCode {
    let possible =
        Command::new("unshare").args(["-Urpmnuif", "--mount-proc", "true"]).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("skipped: this machine has no unshare(1) or does not permit user namespaces");
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in
        TESTS.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())))
    {
        let outcome = catch_unwind(test);
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += u8::from(outcome.is_err());
    }
    ExitCode::from(failed)
}

fn reports_every_line_in_order_and_the_exact_exit_status() {
    let mut enclave = Enclave::boot(&[app("main", "lines 20000 42")]);
    let records = enclave.until_exit();
    let numbers = records.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq);
    assert!(numbers && records[0].seq == 1, "events are missing");
    let lines = |from| logs(&records, "main", from);
    let expected: Vec<_> = (0..20000).map(|i| format!("line {i}").into_bytes()).collect();
    assert!(lines(LogStream::Stdout) == expected, "lines are missing or out of order");
    assert_eq!(lines(LogStream::Stderr), [b"not \xff text".to_vec(), b"no end of line".to_vec()]);
    let exited =
        Event::Service { service: "main".into(), run: 1, state: ServiceState::Exited(Outcome::Code(42)) };
    let after = records.iter().skip_while(|record| record.event != exited).skip(1);
    let exit = Exit { code: 42, cause: Cause::MainService };
    assert_eq!(after.map(|record| &record.event).collect::<Vec<_>>(), [&Event::Exit(exit)]);
    assert_eq!(enclave.status().code(), Some(42));
}

fn measures_the_manifest_before_anything_starts() {
    let mut manifest = measured(&[app("main", "exit 0")]);
    manifest.publish = vec![Publish::plain(8080.try_into().unwrap())];
    let mut enclave = Enclave::with_manifest(&manifest.to_canonical_json(), true);
    let records = enclave.until_exit();
    let digest = sha384(&manifest.to_canonical_json());
    let state = enclave.module.as_ref().unwrap().0.describe_pcr(PcrIndex::new(16_u8).unwrap()).unwrap();
    let expected = sha384(&[&[0; 48], digest.as_slice()].concat());
    assert_eq!((state.locked, state.value), (true, Pcr(expected.try_into().unwrap())));
    let order: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Measured { .. } => Some("measured".to_owned()),
            Event::Service { service, state: ServiceState::Starting, .. } => {
                Some(format!("{service} starts"))
            }
            Event::Service { service, state: ServiceState::Ready, .. } => Some(format!("{service} ready")),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["measured", "@pf-proxy starts", "@pf-proxy ready", "main starts", "main ready"]);
    assert_eq!(enclave.heartbeat.recv_timeout(LIMIT), Ok(HEARTBEAT_BYTE));
    assert_eq!(enclave.status().code(), Some(0));
}

fn a_signalled_main_service_is_reported_as_such() {
    let mut enclave = Enclave::boot(&[app("main", "kill-self")]);
    let records = enclave.until_exit();
    let exited = ServiceState::Exited(Outcome::Signal(9));
    assert!(states(&records, "main").contains(&&exited), "{records:?}");
    assert_eq!(enclave.status().code(), Some(137));
}

fn restarts_a_killed_service_and_shuts_down_on_request() {
    let worker = Service { restart: Restart::Always, ready: Readiness::Notify, ..app("worker", "die-once") };
    let main = Service { ready: Readiness::Tcp(7000.try_into().unwrap()), ..app("main", "listen 7000") };
    let mut enclave = Enclave::boot(&[worker, main]);
    let again = |record: &Record| matches!(&record.event, Event::Service { service, run: 2, state: ServiceState::Ready } if service == "worker");
    let records = enclave.until("the worker's second run", again);
    assert!(states(&records, "worker").contains(&&ServiceState::Exited(Outcome::Signal(9))), "{records:?}");
    if !records.iter().any(|record| record.event == Event::Ready) {
        enclave.until("everything to be ready", |record| record.event == Event::Ready);
    }
    assert_eq!(enclave.control(b"nonsense\n"), b"error: the only command is shutdown\n");
    assert_eq!(enclave.control(b"shutdown\n"), b"ok\n");
    let records = enclave.until_exit();
    let ended: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Service { service, state: ServiceState::Exited(outcome), .. } => {
                Some((service.as_str(), *outcome))
            }
            _ => None,
        })
        .collect();
    assert_eq!(ended, [("main", Outcome::Signal(15)), ("worker", Outcome::Signal(15))]);
    let exit = Event::Exit(Exit { code: 143, cause: Cause::Shutdown });
    assert_eq!(records.last().map(|record| &record.event), Some(&exit));
    assert_eq!(enclave.status().code(), Some(143));
}

fn a_health_check_makes_ready_and_reports_and_the_stop_signal_is_the_manifests() {
    let script = "trap 'echo asked to quit; exit 7' QUIT; while :; do sleep 0.05; done";
    let main = Service {
        command: ["sh", "-c", script].map(String::from).to_vec(),
        ready: Readiness::Healthy,
        stop_signal: "QUIT".parse().unwrap(),
        healthcheck: Some(check("echo looked; test -e /work/well", OnUnhealthy::Report)),
        ..app("main", "")
    };
    let mut enclave = Enclave::boot(&[main]);
    // How the service is, this test decides.
    let well = enclave.share().join("work/well");
    let is = |wanted: Health| move |record: &Record| matches!(&record.event, Event::Health { health, .. } if *health == wanted);
    let early = Health::Unhealthy { reason: "it exited with status 1".into(), output: "looked".into() };
    enclave.until("the first failures", is(early.clone()));
    std::fs::write(&well, "").unwrap();
    let records = enclave.until("the first success", is(Health::Healthy));
    assert!(!states(&records, "main").contains(&&ServiceState::Ready), "{records:?}");
    enclave.until("readiness", |record| record.event == Event::Ready);
    std::fs::remove_file(&well).unwrap();
    enclave.until("failures", is(early));
    std::fs::write(&well, "").unwrap();
    enclave.until("recovery", is(Health::Healthy));
    assert_eq!(enclave.control(b"shutdown\n"), b"ok\n");
    let records = enclave.until_exit();
    assert_eq!(logs(&records, "main", LogStream::Stdout), [b"asked to quit".to_vec()], "{records:?}");
    assert_eq!(enclave.status().code(), Some(7));
}

fn a_health_check_that_hangs_restarts_its_service() {
    let mut hanging = check("sleep 600", OnUnhealthy::Restart);
    hanging.timeout_ms = 100;
    let main = Service { restart: Restart::Always, healthcheck: Some(hanging), ..app("main", "sleep") };
    let mut enclave = Enclave::boot(&[main]);
    let again =
        |record: &Record| matches!(record.event, Event::Service { run: 2, state: ServiceState::Ready, .. });
    let records = enclave.until("the second run", again);
    let reason = records.iter().find_map(|record| match &record.event {
        Event::Health { run: 1, health: Health::Unhealthy { reason, .. }, .. } => Some(reason.as_str()),
        _ => None,
    });
    assert_eq!(reason, Some("it took longer than 100 ms"));
    assert!(states(&records, "main").contains(&&ServiceState::Exited(Outcome::Signal(15))), "{records:?}");
    enclave.control(b"shutdown\n");
    enclave.until_exit();
}

fn check(script: &str, on_unhealthy: OnUnhealthy) -> Healthcheck {
    Healthcheck {
        command: ["sh", "-c", script].map(String::from).to_vec(),
        interval_ms: 100,
        on_unhealthy,
        retries: 2.try_into().unwrap(),
        start_interval_ms: 50,
        start_period_ms: 0,
        timeout_ms: 10_000,
    }
}

fn leaves_no_zombies_and_nothing_of_an_ended_service() {
    let mut enclave = Enclave::boot(&[app("task", "leave-behind"), app("main", "orphans 50")]);
    let records = enclave.until_exit();
    assert_eq!(logs(&records, "main", LogStream::Stdout), [b"other processes: 0".to_vec()]);
    assert_eq!(enclave.status().code(), Some(0));
}

fn a_service_that_is_never_ready_stops_the_start() {
    let mute = Service { ready: Readiness::Notify, ready_timeout_s: 1, ..app("mute", "sleep") };
    let mut enclave = Enclave::boot(&[mute, app("main", "exit 0")]);
    let records = enclave.until_exit();
    let expected = [
        ServiceState::Starting,
        ServiceState::NotReady { timeout_s: 1 },
        ServiceState::Exited(Outcome::Signal(9)),
    ];
    assert_eq!(states(&records, "mute"), expected.iter().collect::<Vec<_>>());
    assert_eq!(states(&records, "main"), Vec::<&ServiceState>::new());
    let exit = Event::Exit(Exit { code: 137, cause: Cause::StartFailed });
    assert_eq!(records.last().map(|record| &record.event), Some(&exit));
    assert_eq!(enclave.status().code(), Some(137));
}

/// An init that writes to its host from where it also reaps and supervises is frozen by a host that stops reading.
fn a_host_that_stops_reading_does_not_stop_the_enclave() {
    let mut enclave = Enclave::prepare(&measured(&[app("main", "lines 400000 5")]).to_canonical_json(), true);
    let (accepted, connection) = mpsc::channel();
    let listener = enclave.events.try_clone().unwrap();
    thread::spawn(move || accepted.send(listener.accept().unwrap().0));
    enclave.start();
    let connection = connection.recv_timeout(LIMIT).unwrap();
    // Nothing is read until the whole enclave has ended by itself.
    assert_eq!(enclave.status().code(), Some(5));
    drop(connection);
}

fn a_host_that_is_not_there_does_not_stop_the_enclave() {
    let mut enclave = Enclave::prepare(&measured(&[app("main", "exit 6")]).to_canonical_json(), true);
    std::fs::remove_file(enclave.share().join("vsock_9000")).unwrap();
    std::fs::remove_file(enclave.share().join("vsock_9100")).unwrap();
    enclave.start();
    assert_eq!(enclave.status().code(), Some(6));
}

fn confines_services() {
    let mut main = app("main", "describe-self");
    main.workdir = "/work".into();
    main.env.insert("GREETING".into(), "hello".into());
    let mut enclave = Enclave::boot(&[main]);
    let records = enclave.until_exit();
    let lines = logs(&records, "main", LogStream::Stdout);
    let text: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line)).collect();
    let expected = [
        "env GREETING=hello",
        "env HOME=/root",
        "env NOTIFY_SOCKET=/run/glasshouse/notify",
        "env PATH=/bin:/usr/bin",
        "workdir /work",
        "security module false",
        "device null true",
        "may write /proc/sys false",
        "may replace sockets false",
        "may look into init false",
        "may change root false",
        "blocked signals 0000000000000000",
        "descriptors 3",
        "input is the null device true",
        "leads session true",
        "hosts 127.0.0.1 localhost",
    ];
    assert_eq!(text, expected);
    assert_eq!(enclave.status().code(), Some(0));
}

fn starts_nothing_it_cannot_measure() {
    let good = measured(&[app("main", "exit 0")]).to_canonical_json();
    let spaced = [good.as_slice(), b" "].concat();
    let cases = [(spaced.as_slice(), true, "canonical"), (good.as_slice(), false, "Nitro Security Module")];
    for (manifest, with_module, reason) in cases {
        let mut enclave = Enclave::with_manifest(manifest, with_module);
        let records = enclave.until_exit();
        assert_eq!(states(&records, "main"), Vec::<&ServiceState>::new());
        let told =
            |record: &Record| matches!(&record.event, Event::Message { text, .. } if text.contains(reason));
        assert!(records.iter().any(told), "{records:?}");
        let exit = Event::Exit(Exit { code: 125, cause: Cause::Refused });
        assert_eq!(records.last().map(|record| &record.event), Some(&exit));
        assert_eq!(enclave.status().code(), Some(125));
    }
}

/// A manifest with a monitor; the one of these tests does what `sweep_s` says.
fn monitored(sweep_s: u32, enforce: Enforce) -> Measured {
    let monitor = Monitor {
        deny: Vec::new(),
        digests: Vec::new(),
        enforce,
        ignore: Vec::new(),
        nats: None,
        roots: vec!["/work".to_owned()],
        sweep_s,
    };
    Measured { monitor: Some(monitor), ..measured(&[app("main", "sleep")]) }
}

fn measures_what_the_monitor_found_before_anything_starts() {
    let manifest = monitored(0, Enforce::Off);
    let mut enclave = Enclave::with_manifest(&manifest.to_canonical_json(), true);
    let ready = |record: &Record| matches!(&record.event, Event::Service { service, state: ServiceState::Ready, .. } if service == "main");
    let records = enclave.until("the main service", ready);
    let extended = |value: &[u8], data: &[u8]| sha384(&[value, sha384(data).as_slice()].concat());
    let expected = extended(&extended(&[0; 48], &manifest.to_canonical_json()), service::BASELINE);
    let state = enclave.module.as_ref().unwrap().0.describe_pcr(PcrIndex::new(16_u8).unwrap()).unwrap();
    assert_eq!((state.locked, state.value), (true, Pcr(expected.try_into().unwrap())));
    let first =
        |wanted: &dyn Fn(&Event) -> bool| records.iter().position(|record| wanted(&record.event)).unwrap();
    let measured =
        first(&|event| matches!(event, Event::Message { text, .. } if text.contains("baseline is measured")));
    let main = first(&|event| matches!(event, Event::Service { service, .. } if service == "main"));
    assert!(measured < main, "{records:?}");
    assert_eq!(enclave.control(b"shutdown\n"), b"ok\n");
    enclave.until_exit();
}

/// Before the first look at all files nothing starts, and where opening is held nothing goes on without the monitor.
fn ends_without_its_monitor() {
    for (sweep_s, enforce) in [(1, Enforce::Off), (2, Enforce::Require)] {
        let mut enclave = Enclave::with_manifest(&monitored(sweep_s, enforce).to_canonical_json(), true);
        let records = enclave.until_exit();
        let told = |record: &Record| matches!(&record.event, Event::Message { text, .. } if text.contains("the file monitor has ended"));
        assert!(records.iter().any(told), "{records:?}");
        if sweep_s == 1 {
            assert_eq!(states(&records, "main"), Vec::<&ServiceState>::new());
        }
        let exit = Event::Exit(Exit { code: 125, cause: Cause::Refused });
        assert_eq!(records.last().map(|record| &record.event), Some(&exit));
        assert_eq!(enclave.status().code(), Some(125));
    }
}

fn app(name: &str, words: &str) -> Service {
    Service {
        command: std::iter::once("/app").chain(words.split(' ')).map(String::from).collect(),
        env: [("PATH".to_owned(), "/bin:/usr/bin".to_owned())].into(),
        name: name.into(),
        ready: Readiness::Started,
        ready_timeout_s: 30,
        healthcheck: None,
        restart: Restart::Never,
        secrets: Vec::new(),
        stop_signal: StopSignal::TERM,
        stop_timeout_s: 10,
        user: "root".into(),
        workdir: "/".into(),
    }
}

fn measured(services: &[Service]) -> Measured {
    let services = services.to_vec();
    Measured {
        acme: None,
        attestation: None,
        control: None,
        egress: None,
        monitor: None,
        name: "boot-test".into(),
        publish: Vec::new(),
        services,
        version: 1,
    }
}

fn logs(records: &[Record], of: &str, from: LogStream) -> Vec<Vec<u8>> {
    let line = |record: &Record| match &record.event {
        Event::Log { service, stream, line } if service == of && *stream == from => Some(line.bytes.clone()),
        _ => None,
    };
    records.iter().filter_map(line).collect()
}

fn states<'a>(records: &'a [Record], of: &str) -> Vec<&'a ServiceState> {
    let state = |record: &'a Record| match &record.event {
        Event::Service { service, state, .. } if service == of => Some(state),
        _ => None,
    };
    records.iter().filter_map(state).collect()
}

fn sha384(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, bytes).as_ref().to_vec()
}

/// Builds the enclave's root in a mount namespace: what the two ramdisks hold, with the machine's own programs.
const SETUP: &str = r#"
root=$1 share=$2 program=$3
mount -t tmpfs tmpfs "$root"
cd "$root"
mkdir -p dev proc sys run tmp glasshouse host rootfs/etc rootfs/work
for directory in bin lib lib64 usr; do
    for place in . rootfs; do
        if [ -L "/$directory" ]; then cp -P "/$directory" "$place/"
        elif [ -d "/$directory" ]; then mkdir "$place/$directory"; mount --bind "/$directory" "$place/$directory"; fi
    done
done
mount --bind "$share/work" rootfs/work
for device in null zero full random urandom tty; do : > "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
if [ -S "$share/nsm" ]; then : > dev/nsm; mount --bind "$share/nsm" dev/nsm; fi
for program_copy in init rootfs/app; do : > "$program_copy"; mount --bind "$program" "$program_copy"; done
printf 'root:x:0:0::/root:/bin/sh\n' > rootfs/etc/passwd
cp "$share/manifest.json" glasshouse/
mount -t proc proc proc
mount --bind "$share" host
exec chroot . /init quiet --local /host 5>&1
"#;

/// An enclave and its host.
struct Enclave {
    directory: tempfile::TempDir,
    events: UnixListener,
    heartbeat: mpsc::Receiver<u8>,
    records: Option<mpsc::Receiver<Record>>,
    module: Option<(Arc<SimulatedNsm>, ServerHandle)>,
    process: Option<Child>,
}

impl Enclave {
    fn boot(services: &[Service]) -> Self {
        Self::with_manifest(&measured(services).to_canonical_json(), true)
    }

    fn with_manifest(manifest: &[u8], with_module: bool) -> Self {
        let mut enclave = Self::prepare(manifest, with_module);
        let (sender, records) = mpsc::channel();
        let listener = enclave.events.try_clone().unwrap();
        thread::spawn(move || read_events(&listener, &sender));
        enclave.records = Some(records);
        enclave.start();
        enclave
    }

    /// The host's side, without the enclave and without anybody who reads its events.
    fn prepare(manifest: &[u8], with_module: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let share = directory.path().join("share");
        for name in ["share", "share/work", "root"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(share.join("manifest.json"), manifest).unwrap();
        let module = with_module.then(|| {
            let root = DevelopmentRoot::load_or_create(&directory.path().join("pki")).unwrap();
            let module = Arc::new(SimulatedNsm::new(&root, "i-test-enc0", &[]).unwrap());
            let listener = UnixListener::bind(share.join("nsm")).unwrap();
            let server = serve_module(listener, module.clone()).unwrap();
            (module, server)
        });
        let (sender, heartbeat) = mpsc::channel();
        let listener = UnixListener::bind(share.join("vsock_9000")).unwrap();
        thread::spawn(move || answer_heartbeat(&listener, &sender));
        let events = UnixListener::bind(share.join("vsock_9100")).unwrap();
        Self { directory, events, heartbeat, records: None, module, process: None }
    }

    fn start(&mut self) {
        let mut command = Command::new("unshare");
        command.args(["-Urpmnuif", "--kill-child", "sh", "-ceu", SETUP, "sh"]);
        command.arg(self.directory.path().join("root")).arg(self.share());
        command
            .arg(std::env::current_exe().unwrap())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        self.process = Some(command.stdin(Stdio::null()).spawn().unwrap());
    }

    fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    /// The events up to the first of which `wanted` is true.
    fn until(&mut self, what: &str, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let deadline = Instant::now() + LIMIT;
        let mut records = Vec::new();
        while !records.last().is_some_and(&wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.records.as_ref().unwrap().recv_timeout(left) {
                Ok(record) => records.push(record),
                Err(error) => panic!("waiting for {what}: {error}; until then {records:#?}"),
            }
        }
        records
    }

    fn until_exit(&mut self) -> Vec<Record> {
        self.until("the end", |record| matches!(record.event, Event::Exit(_)))
    }

    fn control(&self, command: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.share().join("guest_9001")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(command).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// How the enclave's process ended.
    fn status(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the enclave does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn answer_heartbeat(listener: &UnixListener, heard: &mpsc::Sender<u8>) {
    let mut byte = [0];
    let (mut stream, _) = listener.accept().unwrap();
    // An enclave that refuses to start may be gone before it has said anything; then nothing is heard.
    if stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {
        let _ = heard.send(byte[0]);
    }
}

fn read_events(listener: &UnixListener, records: &mpsc::Sender<Record>) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = std::io::BufReader::new(stream);
    let mut line = Vec::new();
    while std::io::BufRead::read_until(&mut reader, b'\n', &mut line).unwrap() > 0 {
        let _ = records.send(Record::from_line(&line).unwrap());
        line.clear();
    }
}

/// What the enclave runs.
mod service {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    pub(crate) fn proxy() -> ExitCode {
        transport::notify::ready().unwrap();
        sleep()
    }

    /// What the file monitor says that it found.
    pub(crate) const BASELINE: &[u8] = b"what was there";

    /// A file monitor that says what it found, once, and then stays, unless it is to fail before or after that.
    pub(crate) fn monitor() -> ExitCode {
        let manifest = std::fs::read("/glasshouse/manifest.json").unwrap();
        let sweep_s = Measured::from_canonical_json(&manifest).unwrap().monitor.unwrap().sweep_s;
        if sweep_s == 1 {
            return ExitCode::FAILURE;
        }
        let listener = UnixListener::bind("/run/glasshouse-private/ledger.sock").unwrap();
        transport::notify::ready().unwrap();
        let (mut asker, _) = listener.accept().unwrap();
        let mut request = [0; 512];
        let length = asker.read(&mut request).unwrap();
        assert!(request[..length].starts_with(b"GET /v1/baseline HTTP/1.1\r\n"));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BASELINE.len());
        asker.write_all(&[head.as_bytes(), BASELINE].concat()).unwrap();
        drop(asker);
        if sweep_s == 2 { ExitCode::SUCCESS } else { sleep() }
    }

    pub(crate) fn run(mode: &str) -> ExitCode {
        match mode {
            "exit" => return ExitCode::from(number::<u8>(2)),
            "lines" => return lines(),
            "kill-self" => kill_self(),
            "die-once" => die_once(),
            "listen" => listen(),
            "orphans" => orphans(),
            "leave-behind" => drop(Command::new("/app").arg("sleep").spawn().unwrap()),
            "describe-self" => describe_self(),
            "child" => {}
            _ => return sleep(),
        }
        ExitCode::SUCCESS
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(index: usize) -> T {
        std::env::args().nth(index).unwrap().parse().unwrap()
    }

    fn sleep() -> ExitCode {
        thread::sleep(LIMIT);
        ExitCode::FAILURE
    }

    fn lines() -> ExitCode {
        let count: u32 = number(2);
        let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
        for i in 0..count {
            writeln!(stdout, "line {i}").unwrap();
        }
        stdout.flush().unwrap();
        std::io::stderr().write_all(b"not \xff text\nno end of line").unwrap();
        ExitCode::from(number::<u8>(3))
    }

    fn kill_self() {
        kill_process(getpid(), Signal::KILL).unwrap();
        thread::sleep(LIMIT);
    }

    fn die_once() {
        let first = !std::fs::exists("/work/died").unwrap();
        std::fs::write("/work/died", "").unwrap();
        transport::notify::ready().unwrap();
        if first {
            kill_self();
        }
        thread::sleep(LIMIT);
    }

    fn listen() {
        thread::sleep(Duration::from_millis(200));
        let _listener = std::net::TcpListener::bind(("127.0.0.1", number::<u16>(2))).unwrap();
        thread::sleep(LIMIT);
    }

    /// Starts processes whose parents end before them, and looks at what became of them.
    fn orphans() {
        for _ in 0..number::<u32>(2) {
            let script = "/app child & /app child & /app child &";
            assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        }
        let deadline = Instant::now() + LIMIT / 2;
        while others() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        println!("other processes: {}", others());
    }

    /// Processes beside init and this one.
    fn others() -> usize {
        let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().parse::<u32>().is_ok()).count() - 2
    }

    fn describe_self() {
        let mut env: Vec<_> = std::env::vars().map(|(name, value)| format!("env {name}={value}")).collect();
        env.sort();
        println!("{}", env.join("\n"));
        println!("workdir {}", std::env::current_dir().unwrap().display());
        println!("security module {}", std::fs::exists("/dev/nsm").unwrap());
        println!("device null {}", std::fs::write("/dev/null", "x").is_ok());
        println!("may write /proc/sys {}", std::fs::write("/proc/sys/kernel/core_pattern", "core").is_ok());
        println!("may replace sockets {}", std::fs::remove_file("/run/glasshouse/notify").is_ok());
        println!("may look into init {}", std::fs::read_dir("/proc/1/root").is_ok());
        println!("may change root {}", rustix::process::chroot("/work").is_ok());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        println!("blocked signals {blocked}");
        // One of those that are listed is the listing's own.
        println!("descriptors {}", std::fs::read_dir("/proc/self/fd").unwrap().count() - 1);
        let device = |path| std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(path).unwrap());
        println!("input is the null device {}", device("/proc/self/fd/0") == device("/dev/null"));
        println!("leads session {}", sys::pid1::session_leader(getpid()).unwrap() == Some(getpid()));
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        println!("hosts {}", hosts.lines().next().unwrap());
    }
}
