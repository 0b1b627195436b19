//! Carries out what the [`Supervisor`] decides and tells it what happened. Decides nothing itself.

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsString,
    io,
    net::Ipv4Addr,
    rc::Rc,
    time::Duration,
};

use manifest::{Readiness, StopSignal};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use sys::pid1::Launch;
use tokio::{
    net::TcpStream,
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::mpsc,
    task::{AbortHandle, spawn_local},
    time::{sleep, timeout},
};

use crate::{
    REFUSED_CODE,
    capture::Capture,
    event::{Cause, Event, Exit, Health, LogStream, Outcome},
    health::{Change, Monitor, Task},
    journal::{Journal, chain},
    measure::Measurement,
    notify::NotifySocket,
    private::{Ask, ServiceState},
    secrets::Secrets,
    services::{self, Unit},
    supervisor::{Action, Input, Supervisor, UnitId},
    tail::Tail,
};

/// How often a service's port is tried until it answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How long one try may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// `SIGPWR`, which virtual machine monitors send for a power button; tokio has no name for it.
const SIGPWR: i32 = 30;

/// The running enclave.
#[derive(Debug)]
pub(crate) struct Shell {
    units: Vec<Unit>,
    supervisor: Supervisor,
    secrets: Secrets,
    processes: HashMap<Pid, Process>,
    /// Health checks that run, at most one of a unit.
    checks: HashMap<Pid, (UnitId, Rc<Tail>)>,
    socket: NotifySocket,
    journal: Rc<Journal>,
    inputs: mpsc::Sender<Input>,
    received: mpsc::Receiver<Input>,
    asked: mpsc::Receiver<Ask>,
    children: Signals,
    requests: [Signals; 3],
    watched: Option<Watched>,
    baselines: (mpsc::Sender<Baseline>, mpsc::Receiver<Baseline>),
    /// Whether the enclave ends because it must not go on.
    refused: bool,
}

/// What the file monitor of the image means for all others.
#[derive(Debug)]
pub(crate) struct Watched {
    /// What its baseline is added to; `None` once that is done.
    pub(crate) measurement: Option<Measurement>,
    /// Without it, programs could read what is not recorded: the enclave ends with it.
    pub(crate) required: bool,
}

/// What the file monitor, a run of a unit, says that it found before anything started.
type Baseline = (UnitId, u32, io::Result<Vec<u8>>);

/// A running process of a unit.
#[derive(Debug)]
struct Process {
    unit: UnitId,
    run: u32,
    outputs: Vec<Rc<Capture>>,
    probe: Option<AbortHandle>,
}

impl Shell {
    /// Starts nothing yet. `inputs` is the sending end of `received`.
    pub(crate) fn new(
        units: Vec<Unit>,
        secrets: Secrets,
        socket: NotifySocket,
        journal: Rc<Journal>,
        inputs: mpsc::Sender<Input>,
        received: mpsc::Receiver<Input>,
        asked: mpsc::Receiver<Ask>,
    ) -> io::Result<Self> {
        let specs = units.iter().map(|unit| unit.spec.clone()).collect();
        Ok(Self {
            units,
            supervisor: Supervisor::new(specs),
            secrets,
            processes: HashMap::new(),
            checks: HashMap::new(),
            socket,
            journal,
            inputs,
            received,
            asked,
            children: signal(SignalKind::child())?,
            requests: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::from_raw(SIGPWR))?,
            ],
            watched: None,
            baselines: mpsc::channel(1),
            refused: false,
        })
    }

    /// The first of the units is the file monitor.
    pub(crate) fn watched_by(self, watched: Option<Watched>) -> Self {
        Self { watched, ..self }
    }

    /// Runs the units until the enclave ends.
    pub(crate) async fn run(mut self) -> Exit {
        let mut pending = VecDeque::from([Input::Begin]);
        loop {
            while let Some(input) = pending.pop_front() {
                for action in self.supervisor.handle(self.journal.now(), input) {
                    match self.act(action) {
                        Done::Nothing => {}
                        Done::Input(input) => pending.push_back(input),
                        Done::Finished(_) if self.refused => {
                            return Exit { code: REFUSED_CODE, cause: Cause::Refused };
                        }
                        Done::Finished(exit) => return exit,
                    }
                }
            }
            pending.extend(self.next_inputs().await);
        }
    }

    /// Waits until something happens.
    async fn next_inputs(&mut self) -> Vec<Input> {
        let monitors = self.units.iter().filter_map(|unit| unit.monitor.as_ref()?.next_deadline());
        let deadline = monitors.chain(self.supervisor.next_deadline()).min();
        let until = deadline.map(|deadline| deadline.saturating_sub(self.journal.now()));
        let tick = async {
            match until {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let [terminate, interrupt, power] = &mut self.requests;
        tokio::select! {
            _ = self.children.recv() => self.reap(),
            _ = terminate.recv() => self.shutdown("SIGTERM"),
            _ = interrupt.recv() => self.shutdown("SIGINT"),
            _ = power.recv() => self.shutdown("SIGPWR"),
            session = self.socket.ready_session() => self.announced(session),
            // This end holds a sender, so the channel never closes.
            Some(input) = self.received.recv() => vec![input],
            Some(ask) = self.asked.recv() => self.answer(ask),
            Some((unit, run, baseline)) = self.baselines.1.recv() => self.measure(unit, run, baseline),
            () = tick => self.tick(),
        }
    }

    fn act(&mut self, action: Action) -> Done {
        match action {
            Action::Spawn { unit, run } => return Done::Input(self.spawn(unit, run)),
            Action::Terminate { unit } => {
                self.end_checks(unit);
                self.signal(unit, self.units[unit.0].stop_signal);
            }
            Action::Kill { unit } => {
                self.end_checks(unit);
                self.signal(unit, StopSignal::KILL);
            }
            Action::Report(event) => self.journal.record(event),
            Action::Finish(exit) => return Done::Finished(exit),
        }
        Done::Nothing
    }

    fn spawn(&mut self, id: UnitId, run: u32) -> Input {
        let unit = &self.units[id.0];
        let spawned = match sys::pid1::spawn(&unit.launch) {
            Ok(spawned) => spawned,
            Err(error) => {
                let program = unit.launch.program.to_string_lossy();
                return Input::SpawnFailed { unit: id, reason: format!("{program}: {}", chain(&error)) };
            }
        };
        let mut outputs = Vec::new();
        for (pipe, stream) in [(spawned.stdout, LogStream::Stdout), (spawned.stderr, LogStream::Stderr)] {
            match Capture::start(pipe, &unit.spec.name, stream, &self.journal) {
                Ok(capture) => outputs.push(capture),
                Err(error) => {
                    self.journal.warn(format!("{}: cannot read its output: {error}", unit.spec.name))
                }
            }
        }
        let probe = match unit.ready {
            Readiness::Tcp(port) => {
                Some(spawn_local(probe(port.get(), id, run, self.inputs.clone())).abort_handle())
            }
            Readiness::Started | Readiness::Notify | Readiness::Healthy => None,
        };
        if let Some(monitor) = &mut self.units[id.0].monitor {
            monitor.begin(self.journal.now(), run);
        }
        self.processes.insert(spawned.pid, Process { unit: id, run, outputs, probe });
        Input::Spawned { unit: id }
    }

    /// Signals every process of the unit's process group.
    fn signal(&self, unit: UnitId, signal: StopSignal) {
        for (pid, _) in self.processes.iter().filter(|(_, process)| process.unit == unit) {
            // It may have ended already; then its end is about to be reaped.
            let _ = sys::pid1::signal_group(*pid, signal.number());
        }
    }

    /// Collects every child that ended: the units' processes, and orphans that fell to PID 1.
    fn reap(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => inputs.extend(self.reaped(pid, status)),
                Err(rustix::io::Errno::INTR) => {}
                // No child has ended, or there is none.
                Ok(None) | Err(_) => return inputs,
            }
        }
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> Vec<Input> {
        if let Some((unit, tail)) = self.checks.remove(&pid) {
            // What a check leaves behind could hold its outputs, or go on for ever.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            return self.checked(unit, Ok(outcome(status)), &tail);
        }
        let Some(process) = self.processes.remove(&pid) else { return Vec::new() };
        self.end_checks(process.unit);
        // A unit is its process group: what is left of it could hold what the next run needs. The id stays taken for
        // as long as the group has a member, so this reaches no other group.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        if let Some(probe) = process.probe {
            probe.abort();
        }
        for output in &process.outputs {
            output.drain();
        }
        let mut inputs = vec![Input::Exited { unit: process.unit, outcome: outcome(status) }];
        // One that was asked to end with the enclave leaves nobody unwatched.
        let is_monitor = services::is_monitor(&self.units[process.unit.0].spec.name);
        if is_monitor && !self.supervisor.is_stopping(process.unit) {
            inputs.extend(self.unwatched());
        }
        inputs
    }

    /// The file monitor has ended. Before its baseline is measured nothing may start, and where it holds who opens files
    /// nothing may go on.
    fn unwatched(&mut self) -> Vec<Input> {
        let Some(watched) = &self.watched else { return Vec::new() };
        match (&watched.measurement, watched.required) {
            (Some(_), _) => self.refuse("nothing else is started: the file monitor has ended"),
            (None, true) => self.refuse("the file monitor has ended, and nothing may go on without it"),
            (None, false) => Vec::new(),
        }
    }

    fn refuse(&mut self, why: &str) -> Vec<Input> {
        if !std::mem::replace(&mut self.refused, true) {
            self.journal.error(why.to_owned());
        }
        vec![Input::Shutdown]
    }

    /// The file monitor has recorded all that is there.
    fn measure(&mut self, unit: UnitId, run: u32, baseline: io::Result<Vec<u8>>) -> Vec<Input> {
        let Some(mut measurement) = self.watched.as_mut().and_then(|watched| watched.measurement.take())
        else {
            return vec![Input::Ready { unit, run }];
        };
        let outcome = match baseline {
            Ok(baseline) => {
                measurement.add(&baseline).and_then(|()| measurement.lock()).map_err(|e| chain(&e))
            }
            Err(error) => Err(chain(&error)),
        };
        match outcome {
            Ok(()) => {
                self.journal.info("files are recorded, and the ledger's baseline is measured".to_owned());
                vec![Input::Ready { unit, run }]
            }
            Err(why) => self.refuse(&format!("nothing else is started: the ledger is not measured: {why}")),
        }
    }

    /// Starts the checks that are due and kills those that take too long.
    fn tick(&mut self) -> Vec<Input> {
        let mut inputs = vec![Input::Tick];
        let now = self.journal.now();
        for id in (0..self.units.len()).map(UnitId) {
            match self.units[id.0].monitor.as_mut().and_then(|monitor| monitor.tick(now)) {
                Some(Task::Start) => inputs.extend(self.start_check(id)),
                Some(Task::Kill) => self.kill_checks(id),
                None => {}
            }
        }
        inputs
    }

    /// Starts a unit's check, confined exactly as the unit.
    fn start_check(&mut self, id: UnitId) -> Vec<Input> {
        let unit = &self.units[id.0];
        let Some(monitor) = &unit.monitor else { return Vec::new() };
        let mut words = monitor.command().iter().map(OsString::from);
        let launch = Launch {
            program: words.next().expect("a measured health check has a command"),
            args: words.collect(),
            ..unit.launch.clone()
        };
        let spawned = match sys::pid1::spawn(&launch) {
            Ok(spawned) => spawned,
            Err(error) => {
                let reason = format!("{}: {}", launch.program.to_string_lossy(), chain(&error));
                return self.checked(id, Err(reason), &Tail::default());
            }
        };
        // A check whose output cannot be read still counts.
        let tail = Tail::follow([spawned.stdout, spawned.stderr]).unwrap_or_default();
        self.checks.insert(spawned.pid, (id, tail));
        Vec::new()
    }

    /// A check has ended, or could not be started.
    fn checked(&mut self, id: UnitId, outcome: Result<Outcome, String>, tail: &Tail) -> Vec<Input> {
        let unit = &mut self.units[id.0];
        let Some(monitor) = &mut unit.monitor else { return Vec::new() };
        let change = monitor.finished(self.journal.now(), outcome == Ok(Outcome::Code(0)));
        let (run, health, input) = match change {
            None => return Vec::new(),
            Some(Change::Healthy { run, first }) => {
                let ready = first && monitor.makes_ready();
                (run, Health::Healthy, ready.then_some(Input::Ready { unit: id, run }))
            }
            Some(Change::Unhealthy { run, timed_out }) => {
                let reason = match outcome {
                    _ if timed_out => format!("it took longer than {} ms", monitor.timeout().as_millis()),
                    Ok(Outcome::Code(code)) => format!("it exited with status {code}"),
                    Ok(Outcome::Signal(number)) => format!("it was ended by signal {number}"),
                    Err(reason) => reason,
                };
                let health = Health::Unhealthy { reason, output: tail.text() };
                (run, health, monitor.restarts().then_some(Input::Unhealthy { unit: id, run }))
            }
        };
        self.journal.record(Event::Health { service: unit.spec.name.clone(), run, health });
        input.into_iter().collect()
    }

    /// Nobody looks at the unit any more.
    fn end_checks(&mut self, id: UnitId) {
        if self.units[id.0].monitor.as_mut().is_some_and(Monitor::end) {
            self.kill_checks(id);
        }
    }

    fn kill_checks(&self, id: UnitId) {
        for (pid, _) in self.checks.iter().filter(|(_, (unit, _))| *unit == id) {
            let _ = rustix::process::kill_process_group(*pid, Signal::KILL);
        }
    }

    fn announced(&self, session: Pid) -> Vec<Input> {
        let found = self.processes.get(&session);
        // Who waits for its port to answer, or for nothing, is not made ready by a message.
        let found = found.filter(|process| self.units[process.unit.0].ready == Readiness::Notify);
        let Some(&Process { unit, run, .. }) = found else { return Vec::new() };
        let unmeasured = self.watched.as_ref().is_some_and(|watched| watched.measurement.is_some());
        if unmeasured && services::is_monitor(&self.units[unit.0].spec.name) {
            let sender = self.baselines.0.clone();
            spawn_local(async move {
                // This end holds a receiver for as long as it waits for anything.
                let _ = sender.send((unit, run, crate::ledger::baseline().await)).await;
            });
            return Vec::new();
        }
        vec![Input::Ready { unit, run }]
    }

    /// Answers the control channel. Whoever asked may be gone by now.
    fn answer(&mut self, ask: Ask) -> Vec<Input> {
        match ask {
            Ask::Services(answer) => {
                let states = self.supervisor.states().map(|(service, state, run)| ServiceState {
                    service: service.to_owned(),
                    state: state.to_owned(),
                    run,
                });
                let _ = answer.send(states.collect());
                Vec::new()
            }
            Ask::Restart { service, answer } => {
                let named = |unit: &Unit| unit.spec.name == service && !services::is_daemon(&service);
                let found = self.units.iter().position(named);
                let _ = answer.send(found.map(drop).ok_or("the image has no such service"));
                found.map(|unit| Input::Restart { unit: UnitId(unit) }).into_iter().collect()
            }
            Ask::Secrets(answer) => {
                let _ = answer.send(self.secrets.list());
                Vec::new()
            }
            Ask::Give { secret, value, answer } => {
                let given = self.secrets.give(&secret, &value);
                let complete = given.as_ref().map(Clone::clone).unwrap_or_default();
                let _ = answer.send(given.map(drop).map_err(|error| error.to_string()));
                complete.into_iter().map(|unit| Input::Complete { unit }).collect()
            }
        }
    }

    fn shutdown(&self, signal: &str) -> Vec<Input> {
        self.journal.info(format!("shutting down because of {signal}"));
        vec![Input::Shutdown]
    }
}

/// What came of an action.
enum Done {
    Nothing,
    Input(Input),
    Finished(Exit),
}

fn outcome(status: WaitStatus) -> Outcome {
    let byte =
        |number: i32| u8::try_from(number).expect("the kernel gives exit statuses and signals in 8 bits");
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Outcome::Code(byte(code)),
        (None, Some(signal)) => Outcome::Signal(byte(signal)),
        (None, None) => unreachable!("wait without WUNTRACED and WCONTINUED reports ends only"),
    }
}

/// Tries the service's port until it answers.
async fn probe(port: u16, unit: UnitId, run: u32, inputs: mpsc::Sender<Input>) {
    while !matches!(timeout(PROBE_TIMEOUT, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await, Ok(Ok(_)))
    {
        sleep(PROBE_INTERVAL).await;
    }
    let _ = inputs.send(Input::Ready { unit, run }).await;
}
