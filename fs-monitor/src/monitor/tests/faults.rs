//! Storms, races and limits.

use std::{fs::File, io::Write, os::unix::fs::symlink};

use ledger::Digests;
use redb::StorageBackend;
use rustix::fs::{CWD, Mode};

use super::*;

/// A small generator with a fixed seed: the same operations in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn whatever_is_done_to_a_tree_the_ledger_comes_to_say_what_is_there() {
    let world = World::new(|_| {});
    let mut dice = Dice(7);
    for round in 0..6 {
        for _ in 0..400 {
            let place = |dice: &mut Dice| {
                let depth = 1 + dice.roll(3);
                let parts: Vec<_> = (0..depth).map(|_| dice.roll(4).to_string()).collect();
                world.path(&parts.join("/"))
            };
            let (a, b) = (place(&mut dice), place(&mut dice));
            // Most of these fail, since the other place is of another kind, or not there: as in life.
            match dice.roll(8) {
                0 => drop(fs::create_dir_all(&a)),
                1 | 2 => drop(fs::write(&a, dice.roll(1000).to_string())),
                3 => drop(fs::rename(&a, &b)),
                4 => drop(fs::remove_file(&a)),
                5 => drop(fs::remove_dir_all(&a)),
                6 => drop(symlink(&b, &a)),
                _ => drop(fs::hard_link(&a, &b)),
            }
        }
        // In every second round the next storm comes while this one is still being recorded.
        if round % 2 == 1 {
            world.wait_for_truth();
        }
    }
    world.wait_for_truth();
}

#[test]
fn a_rename_storm_ends_under_the_last_name() {
    let world = World::new(|app| {
        fs::create_dir(app.join("0")).unwrap();
        fs::write(app.join("0/x"), "x").unwrap();
    });
    for i in 0..500 {
        fs::rename(world.path(&i.to_string()), world.path(&(i + 1).to_string())).unwrap();
    }
    world.wait_for("500/x", Some(b"x"));
    fs::write(world.path("500/x"), "y").unwrap();
    world.wait_for("500/x", Some(b"y"));
    world.wait_for_truth();
}

#[test]
fn a_file_that_is_made_again_at_once_is_the_new_one() {
    let world = World::new(|app| fs::write(app.join("x"), "0").unwrap());
    for i in 1..=200 {
        fs::remove_file(world.path("x")).unwrap();
        fs::write(world.path("x"), i.to_string()).unwrap();
    }
    world.wait_for("x", Some(b"200"));
    world.wait_for_truth();
}

#[test]
fn a_burst_of_new_files_loses_none() {
    let world = World::new(|_| {});
    for i in 0..3000 {
        fs::write(world.path(&i.to_string()), i.to_string()).unwrap();
    }
    world.wait_for_truth();
    assert_eq!(world.states().len(), 3001);
}

#[test]
fn a_file_that_stays_open_is_recorded_as_it_grows() {
    let world = World::new(|_| {});
    let mut file = File::create(world.path("open")).unwrap();
    file.write_all(b"1").unwrap();
    world.wait_for("open", Some(b"1"));
    file.write_all(b"2").unwrap();
    world.wait_for("open", Some(b"12"));
    drop(file);
    world.wait_for_truth();
}

/// The kernel tells of the name that was written through, and of no other.
#[test]
fn who_writes_through_one_name_changes_all() {
    let world = World::new(|app| {
        fs::create_dir(app.join("dir")).unwrap();
        fs::write(app.join("a"), "1").unwrap();
        fs::hard_link(app.join("a"), app.join("dir/b")).unwrap();
    });
    let write = |name: &str, text: &str| {
        let mut file = File::options().write(true).open(world.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    write("a", "2");
    world.wait_for("a", Some(b"2"));
    world.wait_for("dir/b", Some(b"2"));
    fs::hard_link(world.path("a"), world.path("c")).unwrap();
    world.wait_for("c", Some(b"2"));
    write("c", "3");
    for name in ["a", "dir/b", "c"] {
        world.wait_for(name, Some(b"3"));
    }
    world.wait_for_truth();
}

#[test]
fn a_pipe_that_takes_a_files_place_holds_nobody() {
    let world = World::new(|app| fs::write(app.join("x"), "x").unwrap());
    rustix::fs::mkfifoat(CWD, world.path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    fs::rename(world.path("pipe"), world.path("x")).unwrap();
    wait_until("the pipe is recorded", || {
        let last = world.records(b"/app/x").pop().unwrap();
        matches!(last.state, State::Present(_, Content::Fifo))
    });
    world.wait_for_truth();
}

#[test]
fn a_file_in_a_directory_that_becomes_a_link_is_not_followed() {
    let world = World::new(|app| {
        fs::create_dir(app.join("dir")).unwrap();
        fs::write(app.join("dir/x"), "inside").unwrap();
    });
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "outside").unwrap();
    fs::remove_dir_all(world.path("dir")).unwrap();
    symlink(&outside, world.path("dir")).unwrap();
    world.wait_for("dir/x", None);
    world.wait_for_truth();
    fs::write(outside.join("x"), "changed").unwrap();
    fs::write(world.path("after"), "x").unwrap();
    world.wait_for("after", Some(b"x"));
    assert_eq!(world.history("dir/x").last().unwrap().1, None);
}

#[test]
fn a_limit_of_watches_that_is_reached_ends_the_monitor_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    for i in 0..8 {
        fs::create_dir_all(app.join(i.to_string())).unwrap();
    }
    let start = || super::start(Settings { max_watches: 10, ..settings(dir.path()) }, &memory());
    let monitor = start().unwrap();
    let handle = monitor.handle();
    fs::create_dir(app.join("one too many")).unwrap();
    let Phase::Failed(why) = handle.wait_end() else { panic!("{:?}", handle.phase()) };
    assert!(why.contains("one too many") && why.contains("the limit of 10 watched directories"), "{why}");
    drop(monitor);
    let refused = start().unwrap_err().to_string();
    assert!(refused.contains("fs.inotify.max_user_watches"), "{refused}");
}

/// Memory that is full from a moment on.
#[derive(Debug)]
struct Full {
    memory: InMemoryBackend,
    full: Arc<AtomicBool>,
}

impl Full {
    fn room(&self) -> std::io::Result<()> {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        if self.full.load(Ordering::Relaxed) { Err(full()) } else { Ok(()) }
    }
}

impl StorageBackend for Full {
    fn len(&self) -> std::io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.room()?;
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.room()?;
        self.memory.write(offset, data)
    }
}

/// A full disk must not make a monitor that goes on without recording.
#[test]
fn a_ledger_that_cannot_be_written_ends_the_monitor() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("app")).unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let backend = Full { memory: InMemoryBackend::new(), full: Arc::clone(&full) };
    let ledger = Arc::new(Ledger::open_backend(backend, now(), Options::default()).unwrap());
    let monitor = super::start(settings(dir.path()), &ledger).unwrap();
    let recorded = ledger.size();
    full.store(true, Ordering::Relaxed);
    fs::write(dir.path().join("app/x"), "x").unwrap();
    let handle = monitor.handle();
    let Phase::Failed(why) = handle.wait_end() else { panic!("{:?}", handle.phase()) };
    assert!(why.contains("cannot read or write the ledger"), "{why}");
    assert_eq!(ledger.size(), recorded);
    assert!(handle.sweep().is_err());
}

/// Times that lie in the future, or go back, are recorded as they are and change nothing else.
#[test]
fn a_files_times_may_be_any() {
    use std::time::{SystemTime, UNIX_EPOCH};
    let world = World::new(|app| fs::write(app.join("x"), "x").unwrap());
    for time in
        [UNIX_EPOCH, SystemTime::now() + Duration::from_secs(1 << 33), UNIX_EPOCH + Duration::from_nanos(5)]
    {
        File::options().write(true).open(world.path("x")).unwrap().set_modified(time).unwrap();
        world.wait_for_truth();
    }
    let last = world.records(b"/app/x").pop().unwrap();
    assert!(matches!(last.state, State::Present(attributes, _) if attributes.mtime == 5), "{last:?}");
}

/// The clock is the host's to set. What happened when is then wrong in the ledger; what happened after what is not.
#[test]
fn a_clock_that_jumps_changes_times_and_nothing_else() {
    static TIME: AtomicU64 = AtomicU64::new(1 << 60);
    let world = World::with_clock(|| TIME.load(Ordering::Relaxed), |_| {});
    let times = [5, u64::MAX, 0, (1 << 60) + 7, 6];
    for (round, time) in times.into_iter().enumerate() {
        TIME.store(time, Ordering::Relaxed);
        fs::write(world.path("x"), round.to_string()).unwrap();
        world.wait_for("x", Some(round.to_string().as_bytes()));
    }
    world.wait_for_truth();
    // A gap while the clock is behind what was recorded says since when, whatever that is.
    world.shared().append_gap(GapReason::Overflow, "").unwrap();
    let anchor = ledger::Anchor::new(world.ledger.checkpoint(), &world.ledger.vrf_key()).unwrap();
    let proof = world.ledger.prove_history(b"/app/x", None).unwrap();
    let history = anchor.verify_history(b"/app/x", &proof).unwrap();
    assert!(history.windows(2).all(|pair| pair[0].index < pair[1].index));
    let digest = |state: &State| match state {
        State::Present(_, Content::File { digests, .. }) => digests.of(Algorithm::Blake3).map(<[u8]>::to_vec),
        _ => None,
    };
    // What was seen of a file between its making and its writing is left out.
    let found: Vec<_> = (0..times.len())
        .map(|round| {
            let wanted = Some(blake3::hash(round.to_string().as_bytes()).as_bytes().to_vec());
            history.iter().find(|seen| digest(&seen.record.state) == wanted).unwrap().time
        })
        .collect();
    assert_eq!(found, times);
    let proof = world.ledger.prove_stream(&StreamName::ledger(), 0, None).unwrap();
    let gaps = anchor.verify_stream(&StreamName::ledger(), &proof).unwrap();
    assert!(gaps.is_complete() && gaps.entries.last().is_some_and(|gap| gap.time == 6));
}

/// A directory may be listed while a file in it is being written. The file then came to be what it had been, which is not
/// recorded, and the listing that showed something else stayed.
#[test]
fn a_listing_of_what_has_passed_is_put_right() {
    let world = World::new(|app| fs::write(app.join("x"), "1").unwrap());
    let app = world.shared().ledger.file(b"/app".to_vec()).unwrap();
    let Some(State::Present(attributes, Content::Directory { entries, .. })) =
        world.shared().recorded(&app).unwrap()
    else {
        panic!("no directory")
    };
    let digests = Digests::new().with(Algorithm::Blake3, &[0; 32]);
    let state = State::Present(attributes, Content::Directory { entries, digests });
    let passing = Observation { file: app, cause: Cause::Event, state, inode: None, moving: false };
    world.shared().record(passing).unwrap();
    fs::write(world.path("x"), "1").unwrap();
    world.wait_for_truth();
}
