//! Which paths have to be looked at, and when. No IO, and no clock but the one that is passed in.
//!
//! A path is handed out to one thread at a time, and is `out` until what was found of it is in the ledger: so nothing that was
//! found earlier is ever written later. What happens to it meanwhile makes it due again.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ledger::Cause;

/// How long a file that is written to may go on before it is looked at anyway.
const MAX_SETTLE: Duration = Duration::from_secs(1);

/// When to look at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At once.
    Now,
    /// After this time, in which it may be marked again for [`When::Now`].
    After(Duration),
    /// Once it was left alone for this time, or [`MAX_SETTLE`] after it was marked first.
    Quiet(Duration),
    /// When nothing else is due.
    Idle,
}

/// A path that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) path: Arc<[u8]>,
    pub(crate) cause: Cause,
    /// How often it was looked at in vain.
    pub(crate) attempts: u32,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    cause: Cause,
    attempts: u32,
    since: Instant,
    due: Instant,
    /// Whether further writing puts it off.
    settles: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    marks: HashMap<Arc<[u8]>, Mark>,
    by_due: BTreeSet<(Instant, Arc<[u8]>)>,
    idle: VecDeque<(Arc<[u8]>, Cause)>,
    /// What is out, and whether it has to be looked at again.
    out: HashMap<Arc<[u8]>, Option<Mark>>,
    /// What is out because nothing else was due.
    swept: HashSet<Arc<[u8]>>,
}

impl Queue {
    /// Makes a path due.
    pub(crate) fn mark(&mut self, path: &[u8], cause: Cause, when: When, now: Instant) {
        let old = match self.out.get(path) {
            Some(again) => *again,
            None => self.marks.get(path).copied(),
        };
        if when == When::Idle && !self.out.contains_key(path) {
            if old.is_none() {
                self.idle.push_back((path.into(), cause));
            }
            return;
        }
        let mark = merge(old, cause, when, now);
        match self.out.get_mut(path) {
            Some(again) => *again = Some(mark),
            None => self.insert(path.into(), mark),
        }
    }

    fn insert(&mut self, path: Arc<[u8]>, mark: Mark) {
        if let Some(old) = self.marks.insert(Arc::clone(&path), mark) {
            self.by_due.remove(&(old.due, Arc::clone(&path)));
        }
        self.by_due.insert((mark.due, path));
    }

    /// Hands out up to `limit` paths that are due.
    pub(crate) fn take(&mut self, now: Instant, limit: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        while tasks.len() < limit {
            let Some((due, path)) = self.by_due.first().cloned().filter(|(due, _)| *due <= now) else {
                break;
            };
            self.by_due.remove(&(due, Arc::clone(&path)));
            let Some(mark) = self.marks.remove(&path) else { continue };
            self.out.insert(Arc::clone(&path), None);
            tasks.push(Task { path, cause: mark.cause, attempts: mark.attempts });
        }
        while tasks.is_empty() {
            let Some((path, cause)) = self.idle.pop_front() else { break };
            // Marked otherwise meanwhile, it is looked at soon enough.
            if !self.marks.contains_key(&path) && !self.out.contains_key(&path) {
                self.out.insert(Arc::clone(&path), None);
                self.swept.insert(Arc::clone(&path));
                tasks.push(Task { path, cause, attempts: 0 });
            }
        }
        tasks
    }

    /// Hands out this very path, unless it is out already.
    pub(crate) fn claim(&mut self, path: &[u8]) -> bool {
        if self.out.contains_key(path) {
            return false;
        }
        if let Some(mark) = self.marks.remove(path) {
            self.by_due.remove(&(mark.due, path.into()));
        }
        self.out.insert(path.into(), None);
        true
    }

    /// Has everything that is out and that `concerns` looked at again, once what was found of it is recorded: that may have been
    /// found before something else happened.
    pub(crate) fn mark_out(&mut self, cause: Cause, now: Instant, concerns: impl Fn(&[u8]) -> bool) {
        for (path, again) in &mut self.out {
            if concerns(path) {
                *again = Some(merge(*again, cause, When::Now, now));
            }
        }
    }

    /// What was found of a path is recorded.
    pub(crate) fn done(&mut self, path: &[u8]) {
        self.swept.remove(path);
        if let Some((path, Some(again))) = self.out.remove_entry(path) {
            self.insert(path, again);
        }
    }

    /// Puts back a path of which nothing is known yet.
    pub(crate) fn put_back(&mut self, task: Task, delay: Duration, now: Instant) {
        // It changes, so it is not the sweep's any more.
        self.swept.remove(&task.path);
        let again = self.out.remove(&task.path).flatten();
        let due = again.map_or(now + delay, |mark| mark.due.max(now + delay));
        let attempts = task.attempts.saturating_add(1);
        self.insert(task.path, Mark { cause: task.cause, attempts, since: now, due, settles: false });
    }

    /// When the next path is due; `None` if none is marked.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        match self.idle.is_empty() {
            true => self.by_due.first().map(|(due, _)| *due),
            false => Some(now),
        }
    }

    /// How many paths are not as recorded, as far as is known.
    pub(crate) fn pending(&self) -> usize {
        self.marks.len() + self.out.len() + self.idle.len()
    }

    /// Whether something is left of what was marked for [`When::Idle`].
    pub(crate) fn has_swept(&self) -> bool {
        !self.idle.is_empty() || !self.swept.is_empty()
    }
}

fn merge(old: Option<Mark>, cause: Cause, when: When, now: Instant) -> Mark {
    let since = old.map_or(now, |old| old.since);
    let fixed = old.filter(|old| !old.settles).map(|old| old.due);
    let (wanted, settles) = match when {
        When::Now | When::Idle => (now, false),
        When::After(delay) => (now + delay, false),
        When::Quiet(quiet) => ((now + quiet).min(since + MAX_SETTLE), true),
    };
    // What is due at a fixed time is not put off.
    let due = fixed.map_or(wanted, |fixed| fixed.min(wanted));
    let cause = old.map_or(cause, |old| old.cause);
    Mark {
        cause,
        attempts: old.map_or(0, |old| old.attempts),
        since,
        due,
        settles: settles && fixed.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn paths(tasks: &[Task]) -> Vec<String> {
        tasks.iter().map(|task| String::from_utf8_lossy(&task.path).into_owned()).collect()
    }

    #[test]
    fn what_is_out_below_a_directory_that_went_is_looked_at_again() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        for path in [b"/a/b", b"/c/d"] {
            queue.mark(path, Cause::Event, When::Now, start);
        }
        assert_eq!(queue.take(start, 9).len(), 2);
        queue.mark_out(Cause::Event, start, |path| path.starts_with(b"/a/"));
        queue.done(b"/a/b");
        queue.done(b"/c/d");
        assert_eq!(paths(&queue.take(start, 9)), ["/a/b"]);
    }

    #[test]
    fn closing_ends_the_wait_of_a_file_that_is_written() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.mark(b"/a", Cause::Event, When::Quiet(50 * MS), start);
        assert!(queue.take(start + 49 * MS, 9).is_empty());
        queue.mark(b"/a", Cause::Event, When::Quiet(50 * MS), start + 40 * MS);
        assert!(queue.take(start + 60 * MS, 9).is_empty(), "it was written to again");
        queue.mark(b"/a", Cause::Event, When::Now, start + 61 * MS);
        assert_eq!(paths(&queue.take(start + 61 * MS, 9)), ["/a"]);
        assert_eq!(queue.pending(), 1);
        queue.done(b"/a");
        assert_eq!((queue.pending(), queue.next_due(start)), (0, None));
    }

    #[test]
    fn a_file_that_is_never_left_alone_is_looked_at_all_the_same() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        for i in 0..100 {
            queue.mark(b"/log", Cause::Event, When::Quiet(50 * MS), start + 20 * MS * i);
            if !queue.take(start + 20 * MS * i, 9).is_empty() {
                assert_eq!(20 * MS * i, MAX_SETTLE);
                return;
            }
        }
        panic!("it was put off for ever");
    }

    /// Two threads with one path could write the older finding last.
    #[test]
    fn a_path_that_is_out_comes_again_only_when_it_is_back() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.mark(b"/a", Cause::Event, When::Now, now);
        let task = queue.take(now, 9).remove(0);
        queue.mark(b"/a", Cause::Event, When::Now, now);
        assert!(queue.take(now, 9).is_empty() && !queue.claim(b"/a"));
        queue.done(&task.path);
        assert_eq!(queue.take(now, 9), std::slice::from_ref(&task));
        queue.put_back(task, 5 * MS, now);
        assert!(queue.take(now, 9).is_empty());
        assert_eq!(queue.take(now + 5 * MS, 9)[0].attempts, 1);
    }

    #[test]
    fn what_can_wait_waits_for_what_cannot() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.mark(b"/swept", Cause::Sweep, When::Idle, now);
        queue.mark(b"/both", Cause::Sweep, When::Idle, now);
        queue.mark(b"/both", Cause::Event, When::Now, now);
        assert_eq!(paths(&queue.take(now, 9)), ["/both"]);
        assert_eq!(paths(&queue.take(now, 9)), ["/swept"]);
        queue.mark(b"/swept", Cause::Sweep, When::Idle, now);
        queue.done(b"/swept");
        assert_eq!(paths(&queue.take(now, 1)), ["/swept"], "what comes while it is out is not lost");
    }

    #[test]
    fn a_claimed_path_is_out() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.mark(b"/a", Cause::Event, When::After(MS), now);
        assert!(queue.claim(b"/a") && queue.claim(b"/b"));
        assert!(queue.take(now + 2 * MS, 9).is_empty());
        queue.done(b"/a");
        queue.done(b"/b");
        assert_eq!(queue.pending(), 0);
    }
}
