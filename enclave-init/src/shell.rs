//! Carries out what the [`Supervisor`] decides and tells it what happened. Decides nothing itself.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::Ipv4Addr,
    rc::Rc,
    time::Duration,
};

use manifest::Readiness;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::{
    net::TcpStream,
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::mpsc,
    task::{AbortHandle, spawn_local},
    time::{sleep, timeout},
};

use crate::{
    capture::Capture,
    event::{Exit, LogStream, Outcome},
    journal::{Journal, chain},
    notify::NotifySocket,
    services::Unit,
    supervisor::{Action, Input, Supervisor, UnitId},
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
    processes: HashMap<Pid, Process>,
    socket: NotifySocket,
    journal: Rc<Journal>,
    inputs: mpsc::Sender<Input>,
    received: mpsc::Receiver<Input>,
    children: Signals,
    requests: [Signals; 3],
}

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
        socket: NotifySocket,
        journal: Rc<Journal>,
        inputs: mpsc::Sender<Input>,
        received: mpsc::Receiver<Input>,
    ) -> io::Result<Self> {
        let specs = units.iter().map(|unit| unit.spec.clone()).collect();
        Ok(Self {
            units,
            supervisor: Supervisor::new(specs),
            processes: HashMap::new(),
            socket,
            journal,
            inputs,
            received,
            children: signal(SignalKind::child())?,
            requests: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::from_raw(SIGPWR))?,
            ],
        })
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
                        Done::Finished(exit) => return exit,
                    }
                }
            }
            pending.extend(self.next_inputs().await);
        }
    }

    /// Waits until something happens.
    async fn next_inputs(&mut self) -> Vec<Input> {
        let until =
            self.supervisor.next_deadline().map(|deadline| deadline.saturating_sub(self.journal.now()));
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
            () = tick => vec![Input::Tick],
        }
    }

    fn act(&mut self, action: Action) -> Done {
        match action {
            Action::Spawn { unit, run } => return Done::Input(self.spawn(unit, run)),
            Action::Terminate { unit } => self.signal(unit, Signal::TERM),
            Action::Kill { unit } => self.signal(unit, Signal::KILL),
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
            Readiness::Started | Readiness::Notify => None,
        };
        self.processes.insert(spawned.pid, Process { unit: id, run, outputs, probe });
        Input::Spawned { unit: id }
    }

    /// Signals every process of the unit's process group.
    fn signal(&self, unit: UnitId, signal: Signal) {
        for (pid, _) in self.processes.iter().filter(|(_, process)| process.unit == unit) {
            // It may have ended already; then its end is about to be reaped.
            let _ = rustix::process::kill_process_group(*pid, signal);
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

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> Option<Input> {
        let process = self.processes.remove(&pid)?;
        // A unit is its process group: what is left of it could hold what the next run needs. The id stays taken for
        // as long as the group has a member, so this reaches no other group.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        if let Some(probe) = process.probe {
            probe.abort();
        }
        for output in &process.outputs {
            output.drain();
        }
        Some(Input::Exited { unit: process.unit, outcome: outcome(status) })
    }

    fn announced(&self, session: Pid) -> Vec<Input> {
        let found = self.processes.get(&session);
        // Who waits for its port to answer, or for nothing, is not made ready by a message.
        let found = found.filter(|process| self.units[process.unit.0].ready == Readiness::Notify);
        found.map(|process| Input::Ready { unit: process.unit, run: process.run }).into_iter().collect()
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
