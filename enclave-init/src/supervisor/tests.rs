//! The supervisor driven by hand and by chance, on a simulated clock.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A supervisor whose processes exist only as numbers.
struct World {
    supervisor: Supervisor,
    now: Duration,
    alive: BTreeSet<UnitId>,
    /// What was done, in short words.
    log: Vec<String>,
    exit: Option<Exit>,
    spawn_fails: bool,
}

impl World {
    fn new(units: &[(&str, Restart, Option<u64>)]) -> Self {
        let spec = |(name, restart, timeout): &(&str, Restart, Option<u64>)| UnitSpec {
            name: (*name).into(),
            restart: *restart,
            ready_timeout: timeout.map(Duration::from_secs),
            stop_timeout: Duration::from_secs(10),
            secrets: if *name == "secretive" { vec!["a".into()] } else { Vec::new() },
        };
        Self {
            supervisor: Supervisor::new(units.iter().map(spec).collect()),
            now: Duration::ZERO,
            alive: BTreeSet::new(),
            log: Vec::new(),
            exit: None,
            spawn_fails: false,
        }
    }

    fn begun(units: &[(&str, Restart, Option<u64>)]) -> Self {
        let mut world = Self::new(units);
        world.give(Input::Begin);
        world
    }

    fn give(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.supervisor.handle(self.now, input) {
                inputs.extend(self.act(action));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        assert!(self.exit.is_none(), "{action:?} after the end");
        match action {
            Action::Spawn { unit, .. } if self.spawn_fails => {
                return Some(Input::SpawnFailed { unit, reason: "no".into() });
            }
            Action::Spawn { unit, run } => {
                assert!(self.alive.insert(unit), "{unit:?} was started twice");
                self.log.push(format!("spawn {} {run}", unit.0));
                return Some(Input::Spawned { unit });
            }
            Action::Terminate { unit } => self.log.push(format!("term {}", unit.0)),
            Action::Kill { unit } => self.log.push(format!("kill {}", unit.0)),
            Action::Report(Event::Ready) => self.log.push("all ready".into()),
            Action::Report(_) => {}
            Action::Finish(exit) => self.exit = Some(exit),
        }
        None
    }

    fn exits(&mut self, unit: usize, outcome: Outcome) {
        assert!(self.alive.remove(&UnitId(unit)));
        self.give(Input::Exited { unit: UnitId(unit), outcome });
    }

    fn ready(&mut self, unit: usize, run: u32) {
        self.give(Input::Ready { unit: UnitId(unit), run });
    }

    /// Lets the time pass until the next deadline and says how long it was, in milliseconds.
    fn sleep(&mut self) -> u128 {
        let deadline = self.supervisor.next_deadline().expect("something is awaited");
        let slept = deadline.saturating_sub(self.now);
        self.now = self.now.max(deadline);
        self.give(Input::Tick);
        slept.as_millis()
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

const DONE: Outcome = Outcome::Code(0);

#[test]
fn starts_each_unit_when_the_one_before_is_ready() {
    let mut world = World::begun(&[
        ("a", Restart::Never, Some(5)),
        ("b", Restart::Never, None),
        ("c", Restart::Never, Some(5)),
    ]);
    assert_eq!(world.log(), ["spawn 0 1"]);
    world.ready(0, 1);
    assert_eq!(world.log(), ["spawn 1 1", "spawn 2 1"]);
    world.ready(2, 1);
    assert_eq!(world.log(), ["all ready"]);
}

#[test]
fn the_enclave_ends_with_the_main_services_exact_status() {
    for (outcome, code) in [(DONE, 0), (Outcome::Code(42), 42), (Outcome::Signal(9), 137)] {
        let mut world = World::begun(&[("main", Restart::Never, None)]);
        world.exits(0, outcome);
        assert_eq!(world.exit, Some(Exit { code, cause: Cause::MainService }));
    }
}

#[test]
fn a_clean_end_of_an_on_failure_service_is_for_good() {
    let mut world = World::begun(&[("main", Restart::OnFailure, None)]);
    world.exits(0, Outcome::Signal(11));
    assert_eq!(world.exit, None);
    world.sleep();
    world.exits(0, DONE);
    assert_eq!(world.exit, Some(Exit { code: 0, cause: Cause::MainService }));
}

#[test]
fn restarts_slow_down_to_the_cap_and_recover_after_a_stable_run() {
    let mut world = World::begun(&[("main", Restart::Always, None)]);
    let mut delays = Vec::new();
    for _ in 0..10 {
        world.exits(0, Outcome::Code(1));
        delays.push(world.sleep());
    }
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    world.now += STABLE_RUN;
    world.exits(0, DONE);
    assert_eq!(world.sleep(), 200);
}

#[test]
fn a_restarted_unit_does_not_start_the_next_one_again() {
    let mut world = World::begun(&[("a", Restart::Always, None), ("main", Restart::Never, None)]);
    world.log();
    world.exits(0, Outcome::Signal(15));
    world.sleep();
    assert_eq!(world.log(), ["spawn 0 2"]);
}

#[test]
fn a_unit_that_is_not_ready_in_time_is_killed_and_treated_by_its_policy() {
    let mut world = World::begun(&[("main", Restart::OnFailure, Some(3))]);
    assert_eq!(world.sleep(), 3000);
    assert_eq!(world.log(), ["spawn 0 1", "kill 0"]);
    // It got the better of SIGKILL and exited with 0: still a failure.
    world.exits(0, DONE);
    assert_eq!(world.exit, None);
    world.sleep();
    assert_eq!(world.log(), ["spawn 0 2"]);
    let mut world = World::begun(&[("a", Restart::Never, Some(3)), ("main", Restart::Never, None)]);
    world.sleep();
    world.exits(0, Outcome::Signal(9));
    assert_eq!(world.exit, Some(Exit { code: 137, cause: Cause::StartFailed }));
}

#[test]
fn late_readiness_of_an_earlier_run_does_not_count() {
    let mut world = World::begun(&[("main", Restart::Always, Some(3))]);
    world.exits(0, DONE);
    world.sleep();
    world.log();
    world.ready(0, 1);
    assert_eq!(world.log(), [""; 0]);
    world.ready(0, 2);
    assert_eq!(world.log(), ["all ready"]);
}

#[test]
fn a_service_that_ends_before_it_was_ready_stops_the_start() {
    let mut world = World::begun(&[("a", Restart::Never, Some(3)), ("main", Restart::Never, None)]);
    world.exits(0, DONE);
    assert_eq!(world.exit, Some(Exit { code: 1, cause: Cause::StartFailed }));
    assert_eq!(world.log(), ["spawn 0 1"]);
}

#[test]
fn a_task_that_ends_after_it_was_ready_is_no_reason_to_stop() {
    let mut world = World::begun(&[("setup", Restart::Never, None), ("main", Restart::Never, None)]);
    world.exits(0, Outcome::Code(1));
    assert_eq!(world.exit, None);
}

#[test]
fn a_program_that_is_not_there_is_a_failure_with_status_127() {
    let mut world = World::new(&[("main", Restart::Never, None)]);
    world.spawn_fails = true;
    world.give(Input::Begin);
    assert_eq!(world.exit, Some(Exit { code: 127, cause: Cause::MainService }));
}

#[test]
fn shuts_down_in_reverse_order_one_by_one_and_reports_the_main_services_status() {
    let mut world = World::begun(&[("@proxy", Restart::Always, None), ("main", Restart::Always, None)]);
    world.log();
    world.give(Input::Shutdown);
    world.give(Input::Shutdown);
    assert_eq!(world.log(), ["term 1"]);
    world.exits(1, Outcome::Signal(15));
    assert_eq!(world.log(), ["term 0"]);
    world.exits(0, DONE);
    assert_eq!(world.exit, Some(Exit { code: 143, cause: Cause::Shutdown }));
}

#[test]
fn kills_what_outlives_the_grace_period_and_gives_up_on_what_outlives_that() {
    let mut world = World::begun(&[("a", Restart::Always, None), ("main", Restart::Never, None)]);
    world.log();
    world.give(Input::Shutdown);
    assert_eq!(world.sleep(), 10_000);
    assert_eq!(world.log(), ["term 1", "kill 1", "kill 0"]);
    world.exits(0, Outcome::Signal(9));
    assert_eq!(world.exit, None);
    assert_eq!(world.sleep(), 2_000);
    assert_eq!(world.exit, Some(Exit { code: 0, cause: Cause::Shutdown }));
}

#[test]
fn who_was_asked_to_end_with_the_enclave_is_known() {
    let mut world = World::begun(&[("a", Restart::Always, None), ("main", Restart::Never, None)]);
    let asked = |world: &World| [0, 1].map(|unit| world.supervisor.is_stopping(UnitId(unit)));
    assert_eq!(asked(&world), [false, false]);
    world.give(Input::Shutdown);
    // The last one first: who ends out of turn was not asked.
    assert_eq!(asked(&world), [false, true]);
    world.exits(1, Outcome::Signal(15));
    assert_eq!(asked(&world), [true, false]);
}

#[test]
fn each_unit_has_its_own_time_to_stop() {
    let mut world = World::new(&[("a", Restart::Always, None), ("main", Restart::Never, None)]);
    world.supervisor.units[0].spec.stop_timeout = Duration::from_secs(60);
    world.supervisor.units[1].spec.stop_timeout = Duration::from_secs(3);
    world.give(Input::Begin);
    world.log();
    world.give(Input::Shutdown);
    assert_eq!(world.sleep(), 3_000);
    assert_eq!(world.log(), ["term 1", "kill 1"]);
    world.exits(1, Outcome::Signal(9));
    // All together have as long as the one that has longest.
    assert_eq!(world.sleep(), 57_000);
    assert_eq!(world.log(), ["term 0", "kill 0"]);
}

#[test]
fn an_unhealthy_unit_is_stopped_and_started_again_by_its_policy() {
    let mut world = World::begun(&[("main", Restart::OnFailure, None)]);
    world.log();
    world.give(Input::Unhealthy { unit: UnitId(0), run: 2 });
    assert_eq!(world.log(), [""; 0]);
    world.give(Input::Unhealthy { unit: UnitId(0), run: 1 });
    world.give(Input::Unhealthy { unit: UnitId(0), run: 1 });
    assert_eq!(world.log(), ["term 0"]);
    // That it ends well when it is asked to does not make it a success.
    world.exits(0, DONE);
    assert_eq!(world.sleep(), 200);
    assert_eq!(world.log(), ["spawn 0 2"]);
    world.give(Input::Unhealthy { unit: UnitId(0), run: 2 });
    assert_eq!(world.sleep(), 10_000);
    assert_eq!(world.log(), ["term 0", "kill 0"]);
    world.give(Input::Shutdown);
    world.exits(0, Outcome::Signal(9));
    assert_eq!(world.exit, Some(Exit { code: 137, cause: Cause::Shutdown }));
}

#[test]
fn an_operator_restarts_a_unit_whatever_its_policy() {
    let mut world = World::begun(&[("a", Restart::Never, None), ("main", Restart::Never, None)]);
    world.log();
    world.give(Input::Restart { unit: UnitId(1) });
    world.give(Input::Restart { unit: UnitId(1) });
    assert_eq!(world.log(), ["term 1"]);
    world.exits(1, DONE);
    assert_eq!(world.log(), ["spawn 1 2"]);
    // One that has ended for good is started, too.
    world.exits(0, DONE);
    world.give(Input::Restart { unit: UnitId(0) });
    assert_eq!(world.log(), ["spawn 0 2"]);
    // Asked once, it is started again once.
    world.exits(1, DONE);
    world.give(Input::Restart { unit: UnitId(1) });
    assert_eq!(world.log(), ["term 0"]);
}

#[test]
fn a_unit_that_does_not_end_for_its_restart_is_killed() {
    let mut world = World::begun(&[("main", Restart::Never, None)]);
    world.give(Input::Restart { unit: UnitId(0) });
    assert_eq!(world.sleep(), 10_000);
    assert_eq!(world.log(), ["spawn 0 1", "all ready", "term 0", "kill 0"]);
    world.exits(0, Outcome::Signal(9));
    assert_eq!(world.log(), ["spawn 0 2"]);
    assert_eq!(world.supervisor.states().collect::<Vec<_>>(), [("main", "ready", 2)]);
}

#[test]
fn a_shutdown_while_the_main_service_waits_for_its_restart_ends_at_once() {
    let mut world = World::begun(&[("main", Restart::Always, None)]);
    world.exits(0, Outcome::Code(3));
    world.give(Input::Shutdown);
    assert_eq!(world.exit, Some(Exit { code: 0, cause: Cause::Shutdown }));
}

fn any_restart() -> impl Strategy<Value = Restart> {
    prop::sample::select(vec![Restart::Never, Restart::OnFailure, Restart::Always])
}

proptest! {
    /// Whatever happens, no unit runs twice at once, nothing is done after the end, and a shutdown always ends.
    #[test]
    fn always_ends_after_a_shutdown(
        units in prop::collection::vec((any_restart(), prop::option::of(1_u64..5)), 1..5),
        steps in prop::collection::vec((0_u8..6, 0_usize..5, 0_u8..3), 0..60),
    ) {
        let specs: Vec<_> = units.iter().map(|(restart, timeout)| ("u", *restart, *timeout)).collect();
        let mut world = World::begun(&specs);
        for (step, unit, code) in steps {
            if world.exit.is_some() {
                break;
            }
            let unit = unit % units.len();
            match step {
                0 if world.supervisor.next_deadline().is_some() => { world.sleep(); }
                1 if world.alive.contains(&UnitId(unit)) => world.exits(unit, Outcome::Code(code)),
                2 => world.ready(unit, world.supervisor.units[unit].run),
                4 => world.give(Input::Unhealthy { unit: UnitId(unit), run: world.supervisor.units[unit].run }),
                5 => world.give(Input::Restart { unit: UnitId(unit) }),
                _ => world.spawn_fails = !world.spawn_fails,
            }
        }
        if world.exit.is_none() {
            world.give(Input::Shutdown);
        }
        for _ in 0..2 {
            if world.exit.is_none() {
                world.sleep();
            }
        }
        prop_assert!(world.exit.is_some());
    }
}

#[test]
fn who_waits_for_secrets_is_started_when_it_has_them_and_what_follows_after_it() {
    let units = [
        ("first", Restart::Never, None),
        ("secretive", Restart::Always, None),
        ("last", Restart::Never, None),
    ];
    let mut world = World::begun(&units);
    assert_eq!(world.log, ["spawn 0 1"]);
    assert_eq!(world.supervisor.states().nth(1).unwrap().1, "waiting");
    world.give(Input::Complete { unit: UnitId(1) });
    assert_eq!(world.log, ["spawn 0 1", "spawn 1 1", "spawn 2 1", "all ready"]);
    // Another value of a secret starts nothing.
    world.give(Input::Complete { unit: UnitId(1) });
    assert_eq!(world.log.len(), 4);
}

#[test]
fn secrets_that_come_early_are_there_when_it_is_their_services_turn() {
    let units = [("first", Restart::Never, Some(5)), ("secretive", Restart::Never, None)];
    let mut world = World::begun(&units);
    world.give(Input::Complete { unit: UnitId(1) });
    assert_eq!(world.log, ["spawn 0 1"]);
    world.ready(0, 1);
    assert_eq!(world.log, ["spawn 0 1", "spawn 1 1", "all ready"]);
}

#[test]
fn an_enclave_that_waits_for_secrets_can_be_stopped() {
    let mut world = World::begun(&[("secretive", Restart::Never, None)]);
    world.give(Input::Shutdown);
    assert!(world.exit.is_some() && world.log.is_empty());
}
