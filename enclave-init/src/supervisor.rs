//! Decides which service runs when: order, readiness, restarts, shutdown.
//!
//! A state machine over inputs and a clock reading. It starts no process, sends no signal and asks no clock;
//! [`crate::shell`] does what the returned actions say and brings back what came of it.
//!
//! ```text
//!              spawned, ready                 ended, policy says restart
//! Waiting -> Starting -----------> Ready ------------------------------> BackingOff -> Starting
//!               | not ready in time  | ended for good                         (delay over)
//!               v                    v
//!            Overdue (killed) ---> Ended
//! ```
//!
//! Units start one after the other, each when the one before it has been ready once. The last is the main service:
//! its end for good is the enclave's.

use std::time::Duration;

use manifest::Restart;

use crate::event::{Cause, Event, Exit, Outcome, ServiceState};

/// Delay before the first restart; it doubles with each one that follows too soon.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Longest delay before a restart.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// A run of this length ends the doubling.
const STABLE_RUN: Duration = Duration::from_secs(60);

/// What all units together have at least, from the first stop signal of a shutdown, before the rest get SIGKILL; the
/// longest time that one of them has to stop, if that is longer.
const GRACE: Duration = Duration::from_secs(10);

/// What the kernel has to end the killed ones before init gives up on them.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// The status of a main service that could not be started, as shells have it.
const NOT_STARTED_CODE: u8 = 127;

/// A unit's place in the order of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UnitId(pub(crate) usize);

/// What the supervisor has to know of a service or a daemon of the framework.
#[derive(Clone, Debug)]
pub(crate) struct UnitSpec {
    pub(crate) name: String,
    pub(crate) restart: Restart,
    /// How long it has to become ready; `None` when it is ready as soon as it runs.
    pub(crate) ready_timeout: Option<Duration>,
    /// From [`Action::Terminate`] to [`Action::Kill`].
    pub(crate) stop_timeout: Duration,
    /// Without them it is not started for the first time.
    pub(crate) secrets: Vec<String>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Boot is over: start.
    Begin,
    /// The process of an [`Action::Spawn`] runs.
    Spawned { unit: UnitId },
    /// The process of an [`Action::Spawn`] could not be made.
    SpawnFailed { unit: UnitId, reason: String },
    /// The process of this run says that it is ready, or was found to be.
    Ready { unit: UnitId, run: u32 },
    /// The process of this run is not well, and the manifest wants another one then.
    Unhealthy { unit: UnitId, run: u32 },
    /// The process ended.
    Exited { unit: UnitId, outcome: Outcome },
    /// An operator wants another run, whatever the unit's policy.
    Restart { unit: UnitId },
    /// The unit has all its secrets.
    Complete { unit: UnitId },
    /// Somebody asked the enclave to end.
    Shutdown,
    /// A deadline has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the unit's process; answer with [`Input::Spawned`] or [`Input::SpawnFailed`].
    Spawn { unit: UnitId, run: u32 },
    /// Ask the unit's process to end.
    Terminate { unit: UnitId },
    /// End every process of the unit.
    Kill { unit: UnitId },
    /// Tell the host.
    Report(Event),
    /// Nothing runs any more: the enclave ends. The last action.
    Finish(Exit),
}

/// The state of all units.
#[derive(Debug)]
pub(crate) struct Supervisor {
    units: Vec<Unit>,
    phase: Phase,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Unit {
    spec: UnitSpec,
    state: State,
    run: u32,
    started_at: Duration,
    was_ready: bool,
    /// Ends in a row that came too soon.
    failures: u32,
    /// Start it again when its process has ended, whatever the policy.
    start_again: bool,
    /// It has all its secrets.
    is_complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Starting {
        /// Set once the process runs, if it has to become ready.
        deadline: Option<Duration>,
    },
    Ready,
    /// Killed because it was not ready in time; its end is awaited.
    Overdue,
    BackingOff {
        until: Duration,
    },
    /// Asked to end because it is not well; its end is awaited.
    Replacing {
        deadline: Duration,
    },
    /// Asked to end; its end is awaited.
    Stopping {
        /// `None` once it was killed.
        deadline: Option<Duration>,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping { deadline: Duration, killed: bool, exit: Exit },
    Finished,
}

impl Supervisor {
    /// `units` in the order of starting, the main service last.
    pub(crate) fn new(units: Vec<UnitSpec>) -> Self {
        let waiting = |spec: UnitSpec| Unit {
            state: State::Waiting,
            run: 0,
            started_at: Duration::ZERO,
            was_ready: false,
            failures: 0,
            start_again: false,
            is_complete: spec.secrets.is_empty(),
            spec,
        };
        Self { units: units.into_iter().map(waiting).collect(), phase: Phase::Starting, actions: Vec::new() }
    }

    /// Takes what happened at `now`, a reading of a clock that never goes back.
    pub(crate) fn handle(&mut self, now: Duration, input: Input) -> Vec<Action> {
        match input {
            Input::Begin => self.start_next(now),
            Input::Spawned { unit } => self.spawned(now, unit),
            Input::SpawnFailed { unit, reason } => {
                self.report(unit, ServiceState::Failed { reason });
                self.ended(now, unit, None);
            }
            Input::Ready { unit, run } => {
                let this = &self.units[unit.0];
                if this.run == run && matches!(this.state, State::Starting { .. }) {
                    self.ready(now, unit);
                }
            }
            Input::Unhealthy { unit, run } => self.unhealthy(now, unit, run),
            Input::Exited { unit, outcome } => {
                self.report(unit, ServiceState::Exited(outcome));
                self.ended(now, unit, Some(outcome));
            }
            Input::Restart { unit } => self.restart(now, unit),
            Input::Complete { unit } => {
                // With the first value, not with later ones, and only if all wait for it.
                let was_complete = std::mem::replace(&mut self.units[unit.0].is_complete, true);
                if !was_complete && self.next() == Some(unit) {
                    self.start_next(now);
                }
            }
            Input::Shutdown => self.stop(now, Exit { code: 0, cause: Cause::Shutdown }),
            Input::Tick => self.tick(now),
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Tick`] is due next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        if let Phase::Stopping { deadline, .. } = self.phase {
            let stopping = self.units.iter().filter_map(|unit| match unit.state {
                State::Stopping { deadline } => deadline,
                _ => None,
            });
            return Some(stopping.fold(deadline, Duration::min));
        }
        let deadlines = self.units.iter().filter_map(|unit| match unit.state {
            State::Starting { deadline } => deadline,
            State::BackingOff { until } => Some(until),
            State::Replacing { deadline } => Some(deadline),
            _ => None,
        });
        deadlines.min()
    }

    /// Starts the first unit that never ran, or says that all are ready.
    fn start_next(&mut self, now: Duration) {
        if self.phase != Phase::Starting {
            return;
        }
        match self.next() {
            Some(next) if self.units[next.0].is_complete => self.start(now, next),
            Some(next) => {
                let secrets = self.units[next.0].spec.secrets.clone();
                self.report(next, ServiceState::AwaitingSecrets { secrets });
            }
            None => {
                self.phase = Phase::Running;
                self.actions.push(Action::Report(Event::Ready));
            }
        }
    }

    /// Whose turn it is to be started for the first time, when every unit before it was ready once.
    fn next(&self) -> Option<UnitId> {
        let ready = |unit: &&Unit| unit.was_ready;
        let next = self.units.iter().take_while(ready).count();
        self.units.get(next).filter(|unit| unit.state == State::Waiting).map(|_| UnitId(next))
    }

    fn start(&mut self, now: Duration, id: UnitId) {
        let unit = &mut self.units[id.0];
        unit.run = unit.run.saturating_add(1);
        unit.started_at = now;
        unit.start_again = false;
        unit.state = State::Starting { deadline: None };
        let run = unit.run;
        self.report(id, ServiceState::Starting);
        self.actions.push(Action::Spawn { unit: id, run });
    }

    fn spawned(&mut self, now: Duration, id: UnitId) {
        let unit = &mut self.units[id.0];
        match unit.spec.ready_timeout {
            None => self.ready(now, id),
            Some(timeout) => unit.state = State::Starting { deadline: Some(now + timeout) },
        }
    }

    fn ready(&mut self, now: Duration, id: UnitId) {
        self.report(id, ServiceState::Ready);
        let unit = &mut self.units[id.0];
        unit.state = State::Ready;
        if !std::mem::replace(&mut unit.was_ready, true) {
            self.start_next(now);
        }
    }

    /// Asks a unit that is not well to end; its restart policy does the rest.
    fn unhealthy(&mut self, now: Duration, id: UnitId, run: u32) {
        let unit = &mut self.units[id.0];
        let is_current = unit.run == run && matches!(unit.state, State::Starting { .. } | State::Ready);
        if is_current && !matches!(self.phase, Phase::Stopping { .. } | Phase::Finished) {
            unit.state = State::Replacing { deadline: now + unit.spec.stop_timeout };
            self.actions.push(Action::Terminate { unit: id });
        }
    }

    /// Has a unit that was started before run anew: one that runs is asked to end first.
    fn restart(&mut self, now: Duration, id: UnitId) {
        if matches!(self.phase, Phase::Stopping { .. } | Phase::Finished) {
            return;
        }
        let unit = &mut self.units[id.0];
        match unit.state {
            State::Starting { .. } | State::Ready => {
                unit.state = State::Replacing { deadline: now + unit.spec.stop_timeout };
                unit.start_again = true;
                self.actions.push(Action::Terminate { unit: id });
            }
            State::Replacing { .. } | State::Overdue => unit.start_again = true,
            State::BackingOff { .. } | State::Ended => self.start(now, id),
            // It has its turn yet, or the enclave ends.
            State::Waiting | State::Stopping { .. } => {}
        }
    }

    /// Whether the unit was asked to end because the enclave ends, when all that were started after it are gone, or was killed
    /// with them.
    pub(crate) fn is_stopping(&self, unit: UnitId) -> bool {
        matches!(self.units[unit.0].state, State::Stopping { .. })
    }

    /// Every unit's name, state and number of starts.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&str, &'static str, u32)> {
        self.units.iter().map(|unit| {
            let state = match unit.state {
                State::Waiting => "waiting",
                State::Starting { .. } => "starting",
                State::Ready => "ready",
                State::Overdue | State::BackingOff { .. } | State::Replacing { .. } => "restarting",
                State::Stopping { .. } => "stopping",
                State::Ended => "ended",
            };
            (unit.spec.name.as_str(), state, unit.run)
        })
    }

    /// The unit's process is gone, or never was (`outcome` is `None`).
    fn ended(&mut self, now: Duration, id: UnitId, outcome: Option<Outcome>) {
        let code = outcome.map_or(NOT_STARTED_CODE, Outcome::code);
        if let Phase::Stopping { exit, .. } = &mut self.phase {
            if id.0 + 1 == self.units.len() && exit.cause == Cause::Shutdown {
                exit.code = code;
            }
            self.units[id.0].state = State::Ended;
            return self.stop_next(now);
        }
        let unit = &mut self.units[id.0];
        if unit.start_again {
            return self.start(now, id);
        }
        let failed = matches!(unit.state, State::Overdue | State::Replacing { .. }) || code != 0;
        let again = match unit.spec.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::Never => false,
        };
        if again { self.back_off(now, id) } else { self.ended_for_good(now, id, code) }
    }

    fn back_off(&mut self, now: Duration, id: UnitId) {
        let unit = &mut self.units[id.0];
        if now.saturating_sub(unit.started_at) >= STABLE_RUN {
            unit.failures = 0;
        }
        let delay = FIRST_DELAY.saturating_mul(1 << unit.failures.min(16)).min(MAX_DELAY);
        unit.failures = unit.failures.saturating_add(1);
        unit.state = State::BackingOff { until: now + delay };
        let delay_ms = u64::try_from(delay.as_millis()).expect("at most MAX_DELAY");
        self.report(id, ServiceState::Restarting { delay_ms });
    }

    fn ended_for_good(&mut self, now: Duration, id: UnitId, code: u8) {
        let is_main = id.0 + 1 == self.units.len();
        let unit = &mut self.units[id.0];
        unit.state = State::Ended;
        if is_main {
            self.stop(now, Exit { code, cause: Cause::MainService });
        } else if !unit.was_ready {
            // What comes after it counts on it. Running on with a part of the services would look like success.
            self.stop(now, Exit { code: code.max(1), cause: Cause::StartFailed });
        }
    }

    fn tick(&mut self, now: Duration) {
        if let Phase::Stopping { deadline, killed, exit } = self.phase {
            if now >= deadline {
                return self.stop_harder(now, killed, exit);
            }
            return self.kill_late(now);
        }
        for id in (0..self.units.len()).map(UnitId) {
            match self.units[id.0].state {
                State::Starting { deadline: Some(deadline) } if now >= deadline => self.overdue(id),
                State::BackingOff { until } if now >= until => self.start(now, id),
                State::Replacing { deadline } if now >= deadline => {
                    self.units[id.0].state = State::Overdue;
                    self.actions.push(Action::Kill { unit: id });
                }
                _ => {}
            }
        }
    }

    fn overdue(&mut self, id: UnitId) {
        let unit = &mut self.units[id.0];
        unit.state = State::Overdue;
        let timeout_s = unit.spec.ready_timeout.map_or(0, |timeout| timeout.as_secs());
        self.report(id, ServiceState::NotReady { timeout_s });
        self.actions.push(Action::Kill { unit: id });
    }

    fn stop(&mut self, now: Duration, exit: Exit) {
        if matches!(self.phase, Phase::Stopping { .. } | Phase::Finished) {
            return;
        }
        let grace = self.units.iter().map(|unit| unit.spec.stop_timeout).fold(GRACE, Duration::max);
        self.phase = Phase::Stopping { deadline: now + grace, killed: false, exit };
        for unit in &mut self.units {
            if matches!(unit.state, State::Waiting | State::BackingOff { .. }) {
                unit.state = State::Ended;
            }
        }
        self.stop_next(now);
    }

    /// Asks the last unit that runs to end, so that none loses another that it was started after.
    fn stop_next(&mut self, now: Duration) {
        let Phase::Stopping { exit, killed, .. } = self.phase else { return };
        match self.units.iter().rposition(Unit::runs) {
            Some(last) if !killed && !matches!(self.units[last].state, State::Stopping { .. }) => {
                let unit = &mut self.units[last];
                unit.state = State::Stopping { deadline: Some(now + unit.spec.stop_timeout) };
                self.actions.push(Action::Terminate { unit: UnitId(last) });
            }
            Some(_) => {}
            None => {
                self.phase = Phase::Finished;
                self.actions.push(Action::Finish(exit));
            }
        }
    }

    /// Kills a unit that took longer than its own time to stop.
    fn kill_late(&mut self, now: Duration) {
        for (i, unit) in self.units.iter_mut().enumerate() {
            if matches!(unit.state, State::Stopping { deadline: Some(deadline) } if now >= deadline) {
                unit.state = State::Stopping { deadline: None };
                self.actions.push(Action::Kill { unit: UnitId(i) });
            }
        }
    }

    fn stop_harder(&mut self, now: Duration, killed: bool, exit: Exit) {
        if killed {
            self.phase = Phase::Finished;
            self.actions.push(Action::Finish(exit));
            return;
        }
        self.phase = Phase::Stopping { deadline: now + KILL_WAIT, killed: true, exit };
        for (i, unit) in self.units.iter_mut().enumerate().rev() {
            if unit.runs() {
                unit.state = State::Stopping { deadline: None };
                self.actions.push(Action::Kill { unit: UnitId(i) });
            }
        }
    }

    fn report(&mut self, id: UnitId, state: ServiceState) {
        let unit = &self.units[id.0];
        let event = Event::Service { service: unit.spec.name.clone(), run: unit.run, state };
        self.actions.push(Action::Report(event));
    }
}

impl Unit {
    fn runs(&self) -> bool {
        matches!(
            self.state,
            State::Starting { .. }
                | State::Ready
                | State::Overdue
                | State::Replacing { .. }
                | State::Stopping { .. }
        )
    }
}

#[cfg(test)]
mod tests;
