//! What becomes of files is in the ledger, whatever is done to them.

mod faults;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ledger::{Algorithm, Content, Record, State, StreamEntry, StreamName, StreamPayload, store::Options};
use redb::backends::InMemoryBackend;
use tempfile::TempDir;

use super::*;

/// Far longer than anything takes; a wait that succeeds ends at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of files, a ledger, and a monitor between them.
struct World {
    dir: TempDir,
    ledger: Arc<Ledger>,
    monitor: Option<Monitor>,
}

fn settings(base: &Path) -> Settings {
    Settings {
        base: base.to_owned(),
        roots: vec![b"/app".to_vec()],
        patterns: Patterns::new(&["*.log"]).unwrap(),
        digests: DigestSet::default(),
        sweep: None,
        threads: 3,
        max_watches: usize::MAX,
        clock: now,
    }
}

fn start(settings: Settings, ledger: &Arc<Ledger>) -> Result<Monitor, MonitorError> {
    Monitor::start(settings, Arc::clone(ledger), watch::Sender::new(0))
}

fn memory() -> Arc<Ledger> {
    Arc::new(Ledger::open_backend(InMemoryBackend::new(), now(), Options::default()).unwrap())
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl World {
    /// A monitor over what `prepare` makes in the directory `app`.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::with_clock(now, prepare)
    }

    fn with_clock(clock: fn() -> u64, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        prepare(&dir.path().join("app"));
        let ledger = memory();
        let monitor = start(Settings { clock, ..settings(dir.path()) }, &ledger).unwrap();
        Self { dir, ledger, monitor: Some(monitor) }
    }

    fn records(&self, path: &[u8]) -> Vec<Record> {
        let file = self.ledger.file(path.to_vec()).unwrap();
        let history = self.ledger.history(&file, usize::MAX).unwrap();
        history.into_iter().rev().map(|observation| observation.record).collect()
    }

    /// What is there, as recorded.
    fn states(&self) -> BTreeMap<Box<[u8]>, State> {
        let files = self.ledger.files(None, usize::MAX).unwrap();
        let last = files.into_iter().map(|file| {
            let last = self.ledger.last(&file).unwrap().unwrap();
            (file.path().into(), last.record.state)
        });
        last.filter(|(_, state)| *state != State::Removed).collect()
    }

    fn gaps(&self, wanted: GapReason) -> usize {
        let is_one =
            |entry: &StreamEntry| matches!(&entry.payload, StreamPayload::Gap(gap) if gap.reason == wanted);
        self.ledger
            .stream(&StreamName::ledger(), 0, usize::MAX)
            .unwrap()
            .iter()
            .filter(|entry| is_one(entry))
            .count()
    }

    fn shared(&self) -> &Shared {
        &self.monitor.as_ref().unwrap().shared
    }

    fn handle(&self) -> Handle {
        self.monitor.as_ref().unwrap().handle()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("app").join(name)
    }

    /// The causes and BLAKE3 digests in the history of a file; `None`: it was removed.
    fn history(&self, name: &str) -> Vec<(Cause, Option<Vec<u8>>)> {
        let digest = |state: &State| match state {
            State::Present(_, Content::File { digests, .. } | Content::Directory { digests, .. }) => {
                digests.of(Algorithm::Blake3).map(<[u8]>::to_vec)
            }
            _ => None,
        };
        let history = self.records(format!("/app/{name}").as_bytes());
        history.iter().map(|record| (record.cause, digest(&record.state))).collect()
    }

    fn wait_for(&self, name: &str, content: Option<&[u8]>) {
        let wanted = content.map(|content| blake3::hash(content).as_bytes().to_vec());
        wait_until(&format!("{name} is not recorded: {:?}", self.history(name)), || {
            self.history(name).last().is_some_and(|(_, last)| *last == wanted)
        });
    }

    /// What a walk finds now, as it would be recorded.
    fn truth(&self) -> BTreeMap<Box<[u8]>, State> {
        struct Collect(Mutex<BTreeMap<Box<[u8]>, State>>);
        impl Visitor for Collect {
            type Error = std::convert::Infallible;
            fn enter(&self, _: BorrowedFd<'_>, _: &[u8]) -> Result<(), Self::Error> {
                Ok(())
            }
            fn found(&self, files: Vec<Found>) -> Result<(), Self::Error> {
                let states = files.into_iter().map(|file| (file.path, crate::record::to_ledger(&file.state)));
                self.0.lock().unwrap().extend(states);
                Ok(())
            }
        }
        let settings = settings(self.dir.path());
        let tree = Tree::open(&settings.base, &settings.roots, settings.patterns).unwrap();
        let all = Collect(Mutex::default());
        let Ok(()) = walk(&tree, DigestSet::default(), 2, &all);
        all.0.into_inner().unwrap()
    }

    /// Waits until the ledger says what is there.
    fn wait_for_truth(&self) {
        let truth = self.truth();
        let start = Instant::now();
        loop {
            let recorded = self.states();
            if recorded == truth {
                return;
            }
            if start.elapsed() > PATIENCE {
                let differing: Vec<_> = truth
                    .keys()
                    .chain(recorded.keys())
                    .filter(|path| truth.get(*path) != recorded.get(*path))
                    .map(|path| (text(path), truth.get(path), recorded.get(path)))
                    .collect();
                panic!("{differing:#?}, pending {}", self.handle().pending());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn the_first_walk_is_recorded_before_the_monitor_is_started() {
    let world = World::new(|app| {
        fs::create_dir_all(app.join("a/b")).unwrap();
        fs::write(app.join("a/b/c"), "content").unwrap();
    });
    assert_eq!(world.states(), world.truth());
    assert_eq!(world.history("a/b/c"), [(Cause::Scan, Some(blake3::hash(b"content").as_bytes().to_vec()))]);
    assert_eq!((world.handle().phase(), world.handle().pending()), (Phase::Watching, 0));
}

#[test]
fn a_file_has_a_history_from_its_first_content_to_its_removal() {
    let world = World::new(|app| fs::write(app.join("kept"), "1").unwrap());
    fs::write(world.path("new"), "1").unwrap();
    world.wait_for("new", Some(b"1"));
    fs::write(world.path("new"), "2").unwrap();
    world.wait_for("new", Some(b"2"));
    fs::remove_file(world.path("new")).unwrap();
    world.wait_for("new", None);
    let history = world.history("new");
    assert!(history.iter().all(|(cause, _)| *cause == Cause::Event), "{history:?}");
    assert_eq!(world.history("kept").len(), 1, "nothing happened to it");
    world.wait_for_truth();
}

#[test]
fn a_change_of_attributes_is_a_change() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(|app| fs::write(app.join("x"), "1").unwrap());
    fs::set_permissions(world.path("x"), fs::Permissions::from_mode(0o4711)).unwrap();
    wait_until("the mode is recorded", || {
        let last = world.records(b"/app/x").pop().unwrap();
        matches!(last.state, State::Present(attributes, _) if attributes.mode == 0o4711)
    });
}

#[test]
fn renaming_is_recorded_under_both_names() {
    let world = World::new(|app| {
        fs::write(app.join("old"), "1").unwrap();
        fs::create_dir_all(app.join("olddir/deep")).unwrap();
        fs::write(app.join("olddir/deep/x"), "2").unwrap();
    });
    fs::rename(world.path("old"), world.path("new")).unwrap();
    fs::rename(world.path("olddir"), world.path("newdir")).unwrap();
    world.wait_for("old", None);
    world.wait_for("new", Some(b"1"));
    world.wait_for("olddir/deep/x", None);
    world.wait_for("newdir/deep/x", Some(b"2"));
    // The directory is watched under its new name.
    fs::write(world.path("newdir/deep/x"), "3").unwrap();
    world.wait_for("newdir/deep/x", Some(b"3"));
    world.wait_for_truth();
}

/// Files made in a directory before it was watched raise no notification.
#[test]
fn nothing_is_missed_in_directories_that_come_with_content() {
    let world = World::new(|_| {});
    let outside = world.dir.path().join("outside");
    fs::create_dir_all(outside.join("a/b")).unwrap();
    fs::write(outside.join("a/b/c"), "moved").unwrap();
    fs::rename(&outside, world.path("in")).unwrap();
    for i in 0..50 {
        fs::create_dir_all(world.path(&format!("made/{i}/deep/er"))).unwrap();
        fs::write(world.path(&format!("made/{i}/deep/er/file")), "x").unwrap();
    }
    world.wait_for("in/a/b/c", Some(b"moved"));
    world.wait_for("made/49/deep/er/file", Some(b"x"));
    fs::write(world.path("in/a/b/c"), "changed").unwrap();
    world.wait_for("in/a/b/c", Some(b"changed"));
    fs::rename(world.path("in"), &outside).unwrap();
    world.wait_for("in/a/b/c", None);
    world.wait_for_truth();
}

#[test]
fn ignored_files_are_not_recorded() {
    let world = World::new(|app| fs::write(app.join("before.log"), "x").unwrap());
    fs::write(world.path("now.log"), "x").unwrap();
    fs::write(world.path("then"), "x").unwrap();
    world.wait_for("then", Some(b"x"));
    world.wait_for_truth();
    assert!(world.history("now.log").is_empty() && world.history("before.log").is_empty());
}

/// A monitor whose reading raises notifications reads for ever.
#[test]
fn looking_at_files_makes_no_work() {
    let world = World::new(|app| {
        for i in 0..20 {
            fs::write(app.join(i.to_string()), "x").unwrap();
        }
    });
    for _ in 0..3 {
        world.handle().sweep().unwrap();
    }
    fs::write(world.path("last"), "x").unwrap();
    world.wait_for("last", Some(b"x"));
    world.wait_for_truth();
    let changes = world.handle().counters().changes.load(Ordering::Relaxed);
    assert!(changes <= 4, "{changes} notifications for one file");
}

/// Memory-mapped writes raise no notification; here the monitor is deaf, which comes to the same.
#[test]
fn a_sweep_finds_what_raised_no_notification() {
    let world = World::new(|app| {
        fs::write(app.join("changed"), "1").unwrap();
        fs::write(app.join("removed"), "1").unwrap();
    });
    world.shared().watcher.forget_all();
    fs::write(world.path("changed"), "2").unwrap();
    fs::remove_file(world.path("removed")).unwrap();
    fs::create_dir(world.path("dir")).unwrap();
    fs::write(world.path("dir/added"), "3").unwrap();
    world.handle().sweep().unwrap();
    let digest = |content: &[u8]| Some(blake3::hash(content).as_bytes().to_vec());
    assert_eq!(world.history("changed")[1..], [(Cause::Sweep, digest(b"2"))]);
    assert_eq!(world.history("removed")[1..], [(Cause::Sweep, None)]);
    assert_eq!(world.history("dir/added"), [(Cause::Sweep, digest(b"3"))]);
    // It watches again, too.
    fs::write(world.path("dir/added"), "4").unwrap();
    world.wait_for("dir/added", Some(b"4"));
}

#[test]
fn lost_notifications_are_recorded_as_a_gap_and_made_up_for() {
    let world = World::new(|app| {
        fs::create_dir(app.join("a")).unwrap();
        fs::write(app.join("a/x"), "1").unwrap();
    });
    world.shared().watcher.forget_all();
    fs::rename(world.path("a"), world.path("b")).unwrap();
    fs::write(world.path("b/x"), "2").unwrap();
    world.shared().apply(Change::Overflow);
    world.wait_for("a/x", None);
    world.wait_for("b/x", Some(b"2"));
    world.wait_for_truth();
    assert!(world.history("b/x").iter().all(|(cause, _)| *cause == Cause::Overflow));
    assert_eq!(world.gaps(GapReason::Overflow), 1);
    fs::write(world.path("b/x"), "3").unwrap();
    world.wait_for("b/x", Some(b"3"));
}

#[test]
fn after_a_restart_the_ledger_says_what_changed_meanwhile_and_that_nobody_looked() {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    fs::create_dir(&app).unwrap();
    for name in ["same", "changed", "removed"] {
        fs::write(app.join(name), "1").unwrap();
    }
    let open = || Arc::new(Ledger::open(&dir.path().join("ledger"), now(), Options::default()).unwrap());
    start(settings(dir.path()), &open()).unwrap().stop();
    fs::write(app.join("changed"), "2").unwrap();
    fs::remove_file(app.join("removed")).unwrap();
    fs::write(app.join("added"), "1").unwrap();
    let ledger = open();
    let monitor = start(settings(dir.path()), &ledger).unwrap();
    let world = World { dir, ledger, monitor: Some(monitor) };
    world.wait_for("removed", None);
    world.wait_for_truth();
    assert_eq!(world.history("same").len(), 1);
    for name in ["changed", "removed", "added"] {
        assert_eq!(world.history(name).last().unwrap().0, Cause::Restart, "{name}");
    }
    assert_eq!(world.gaps(GapReason::Restart), 1);
    assert_eq!(world.handle().counters().files.load(Ordering::Relaxed), world.truth().len() as u64);
}

#[test]
fn a_root_that_is_replaced_is_watched_again() {
    let world = World::new(|app| fs::write(app.join("x"), "1").unwrap());
    let app = world.dir.path().join("app");
    fs::rename(&app, world.dir.path().join("away")).unwrap();
    world.wait_for("x", None);
    fs::create_dir(&app).unwrap();
    fs::write(app.join("x"), "2").unwrap();
    world.wait_for("x", Some(b"2"));
    fs::write(app.join("x"), "3").unwrap();
    world.wait_for("x", Some(b"3"));
    world.wait_for_truth();
}

#[test]
fn a_name_may_be_any_bytes() {
    let world = World::new(|_| {});
    let name = std::ffi::OsStr::from_bytes(b"a\nb\xff%");
    fs::write(world.dir.path().join("app").join(name), "x").unwrap();
    wait_until("it is recorded", || !world.records(b"/app/a\nb\xff%").is_empty());
    world.wait_for_truth();
}
