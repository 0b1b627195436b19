//! Decides when a service's health check runs and what its results mean.
//!
//! Like the supervisor it asks no clock and starts nothing; [`crate::shell`] runs the checks. At most one check of a
//! service runs at a time, also across restarts of the service: one that was killed has ended before the next begins.

use std::time::Duration;

use manifest::{Healthcheck, OnUnhealthy, Readiness, Service};

/// The health of one service.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    check: Healthcheck,
    makes_ready: bool,
    run: Option<Run>,
    running: Option<Check>,
}

/// A run of the service.
#[derive(Clone, Copy, Debug)]
struct Run {
    number: u32,
    started: Duration,
    due: Duration,
    failures: u32,
    succeeded: bool,
    is_healthy: Option<bool>,
}

/// A check that has not ended.
#[derive(Clone, Copy, Debug)]
struct Check {
    run: u32,
    /// `None` once it was killed.
    deadline: Option<Duration>,
    timed_out: bool,
}

/// What is to be done at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Start a check and say [`Monitor::finished`] when it has ended or could not be started.
    Start,
    /// Kill the check that runs; its end is still awaited.
    Kill,
}

/// What an ended check changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The service became healthy in this run.
    Healthy { run: u32, first: bool },
    /// The service became unhealthy in this run.
    Unhealthy { run: u32, timed_out: bool },
}

impl Monitor {
    pub(crate) fn of(service: &Service) -> Option<Self> {
        let check = service.healthcheck.clone()?;
        Some(Self { check, makes_ready: service.ready == Readiness::Healthy, run: None, running: None })
    }

    /// The program and its arguments.
    pub(crate) fn command(&self) -> &[String] {
        &self.check.command
    }

    /// How long a check may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.check.timeout_ms)
    }

    pub(crate) fn makes_ready(&self) -> bool {
        self.makes_ready
    }

    pub(crate) fn restarts(&self) -> bool {
        self.check.on_unhealthy == OnUnhealthy::Restart
    }

    /// The service's process runs.
    pub(crate) fn begin(&mut self, now: Duration, number: u32) {
        let mut run = Run { number, started: now, due: now, failures: 0, succeeded: false, is_healthy: None };
        run.due = now + self.interval(now, &run);
        self.run = Some(run);
    }

    /// The service ends or was asked to: nobody looks any more. Says whether a check is to be killed.
    pub(crate) fn end(&mut self) -> bool {
        self.run = None;
        self.running.as_mut().is_some_and(|check| check.deadline.take().is_some())
    }

    /// When [`Self::tick`] is due next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        match &self.running {
            Some(check) => check.deadline,
            None => self.run.map(|run| run.due),
        }
    }

    /// Takes the time.
    pub(crate) fn tick(&mut self, now: Duration) -> Option<Task> {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        if let Some(check) = &mut self.running {
            check.deadline = None;
            check.timed_out = true;
            return Some(Task::Kill);
        }
        let run = self.run?.number;
        self.running = Some(Check { run, deadline: Some(now + self.timeout()), timed_out: false });
        Some(Task::Start)
    }

    /// The check has ended.
    pub(crate) fn finished(&mut self, now: Duration, passed: bool) -> Option<Change> {
        let check = self.running.take()?;
        let mut run = self.run.filter(|run| run.number == check.run)?;
        let passed = passed && !check.timed_out;
        let change = self.judge(now, &mut run, passed, check.timed_out);
        run.due = now + self.interval(now, &run);
        self.run = Some(run);
        change
    }

    fn judge(&self, now: Duration, run: &mut Run, passed: bool, timed_out: bool) -> Option<Change> {
        let number = run.number;
        if passed {
            run.failures = 0;
            let first = !std::mem::replace(&mut run.succeeded, true);
            let is_news = run.is_healthy.replace(true) != Some(true);
            return is_news.then_some(Change::Healthy { run: number, first });
        }
        if run.succeeded || !self.in_start_period(now, run) {
            run.failures = run.failures.saturating_add(1);
        }
        let is_news = run.failures >= self.check.retries.get() && run.is_healthy != Some(false);
        is_news.then(|| {
            run.is_healthy = Some(false);
            Change::Unhealthy { run: number, timed_out }
        })
    }

    fn in_start_period(&self, now: Duration, run: &Run) -> bool {
        now.saturating_sub(run.started) < Duration::from_millis(self.check.start_period_ms)
    }

    fn interval(&self, now: Duration, run: &Run) -> Duration {
        let starts = !run.succeeded && (self.makes_ready || self.in_start_period(now, run));
        Duration::from_millis(if starts { self.check.start_interval_ms } else { self.check.interval_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(start_period_ms: u64, makes_ready: bool) -> Monitor {
        let check = Healthcheck {
            command: vec!["/check".into()],
            interval_ms: 1000,
            on_unhealthy: OnUnhealthy::Report,
            retries: 2.try_into().unwrap(),
            start_interval_ms: 100,
            start_period_ms,
            timeout_ms: 500,
        };
        Monitor { check, makes_ready, run: None, running: None }
    }

    /// Lets the time pass until the next deadline.
    fn wait(monitor: &mut Monitor, now: &mut Duration) -> Option<Task> {
        *now = monitor.next_deadline().expect("something is awaited");
        monitor.tick(*now)
    }

    fn check(monitor: &mut Monitor, now: &mut Duration, passed: bool) -> Option<Change> {
        assert_eq!(wait(monitor, now), Some(Task::Start));
        monitor.finished(*now, passed)
    }

    #[test]
    fn so_many_failures_in_a_row_are_news_and_so_is_the_recovery() {
        let (mut monitor, mut now) = (monitor(0, false), Duration::ZERO);
        monitor.begin(now, 1);
        let mut changes = Vec::new();
        for passed in [true, true, false, true, false, false, false, true] {
            changes.push(check(&mut monitor, &mut now, passed));
        }
        let healthy = |first| Some(Change::Healthy { run: 1, first });
        let unhealthy = Some(Change::Unhealthy { run: 1, timed_out: false });
        assert_eq!(changes, [healthy(true), None, None, None, None, unhealthy, None, healthy(false)]);
        assert_eq!(now, Duration::from_secs(8));
    }

    #[test]
    fn failures_do_not_count_in_the_start_period_before_the_first_success() {
        let (mut monitor, mut now) = (monitor(1000, false), Duration::ZERO);
        monitor.begin(now, 1);
        for _ in 0..9 {
            assert_eq!(check(&mut monitor, &mut now, false), None);
        }
        assert_eq!(now, Duration::from_millis(900));
        assert!(check(&mut monitor, &mut now, true).is_some());
        assert_eq!(check(&mut monitor, &mut now, false), None);
        assert_eq!(
            check(&mut monitor, &mut now, false),
            Some(Change::Unhealthy { run: 1, timed_out: false })
        );
        assert_eq!(now, Duration::from_millis(3000));
    }

    #[test]
    fn a_service_that_awaits_its_first_success_is_looked_at_often() {
        let (mut monitor, mut now) = (monitor(0, true), Duration::ZERO);
        monitor.begin(now, 1);
        check(&mut monitor, &mut now, false);
        check(&mut monitor, &mut now, true);
        assert_eq!(
            (now, monitor.next_deadline()),
            (Duration::from_millis(200), Some(Duration::from_millis(1200)))
        );
    }

    #[test]
    fn a_check_that_hangs_is_killed_once_and_has_failed_whatever_its_status() {
        let (mut monitor, mut now) = (monitor(0, false), Duration::ZERO);
        monitor.begin(now, 1);
        for expected in [None, Some(Change::Unhealthy { run: 1, timed_out: true })] {
            assert_eq!(wait(&mut monitor, &mut now), Some(Task::Start));
            assert_eq!(wait(&mut monitor, &mut now), Some(Task::Kill));
            // The killed one has to end before anything else happens.
            assert_eq!((monitor.next_deadline(), monitor.tick(now * 100)), (None, None));
            assert_eq!(monitor.finished(now, true), expected);
        }
    }

    #[test]
    fn a_check_of_an_earlier_run_neither_counts_nor_overlaps() {
        let (mut monitor, mut now) = (monitor(0, false), Duration::ZERO);
        monitor.begin(now, 1);
        wait(&mut monitor, &mut now);
        assert!(monitor.end(), "the check runs and is to be killed");
        assert!(!monitor.end());
        monitor.begin(now, 2);
        assert_eq!(monitor.tick(now * 100), None);
        assert_eq!(monitor.finished(now, true), None);
        assert_eq!(check(&mut monitor, &mut now, true), Some(Change::Healthy { run: 2, first: true }));
    }
}
