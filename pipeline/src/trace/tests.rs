use std::sync::Mutex;

use nsm::{AttestationRequest, Description, Error, PcrState};

use super::*;
use crate::reply::Exit;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

/// One register of a module, which can be told to fail.
struct Register {
    state: Mutex<PcrState>,
    broken: Mutex<Option<&'static str>>,
}

impl Register {
    fn new() -> Arc<Self> {
        let state = PcrState { locked: false, value: Pcr::ZERO };
        Arc::new(Self { state: Mutex::new(state), broken: Mutex::new(None) })
    }

    fn fail(&self, call: &'static str) {
        *self.broken.lock().unwrap() = Some(call);
    }

    fn state(&self) -> PcrState {
        *self.state.lock().unwrap()
    }

    fn refuse(&self, call: &str) -> Result<(), Error> {
        match *self.broken.lock().unwrap() {
            Some(broken) if broken == call => Err(Error::NoEntropy),
            _ => Ok(()),
        }
    }
}

impl Provider for Register {
    fn describe_pcr(&self, index: PcrIndex) -> Result<PcrState, Error> {
        assert_eq!(u8::from(index), PCR);
        self.refuse("describe")?;
        Ok(self.state())
    }

    fn extend_pcr(&self, index: PcrIndex, data: &[u8]) -> Result<Pcr, Error> {
        assert_eq!(u8::from(index), PCR);
        self.refuse("extend")?;
        let mut state = self.state.lock().unwrap();
        assert!(!state.locked, "a locked register is not extended");
        let bytes = [&state.value.0, data].concat();
        state.value =
            Pcr(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, &bytes).as_ref().try_into().unwrap());
        Ok(state.value)
    }

    fn lock_pcr(&self, index: PcrIndex) -> Result<(), Error> {
        assert_eq!(u8::from(index), PCR);
        self.refuse("lock")?;
        self.state.lock().unwrap().locked = true;
        Ok(())
    }

    fn describe(&self) -> Result<Description, Error> {
        unreachable!("nobody asks")
    }

    fn lock_pcrs(&self, _: u16) -> Result<(), Error> {
        unreachable!("nobody asks")
    }

    fn attest(&self, _: &AttestationRequest) -> Result<Vec<u8>, Error> {
        unreachable!("nobody asks")
    }

    fn random(&self, _: usize) -> Result<Vec<u8>, Error> {
        unreachable!("nobody asks")
    }
}

fn alice() -> Operator {
    Operator { key: KEY.parse().unwrap(), may: vec!["exec".parse().unwrap()], name: "alice".into() }
}

struct World {
    directory: tempfile::TempDir,
    register: Arc<Register>,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), register: Register::new() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    fn start(&self) -> Trace {
        Trace::open(&self.path(), self.register.clone())
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        let file = File::open(self.path().join(TRANSCRIPT_FILE)).unwrap();
        read_entries(file, |entry| {
            entries.push(entry.to_vec());
            Ok(())
        })
        .unwrap();
        entries
    }

    fn write_entries(&self, entries: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend(u32::try_from(entry.len()).unwrap().to_be_bytes());
            bytes.extend(entry);
        }
        fs::write(self.path().join(TRANSCRIPT_FILE), bytes).unwrap();
    }

    /// A trace of three sessions, two of them closed.
    fn entered() -> Self {
        let world = Self::new();
        let trace = world.start();
        for request in ["one", "two", "three"] {
            trace.admit(&alice(), request.as_bytes()).unwrap();
        }
        trace.close(1, Ending::Exit(Exit::default()), &Done::default());
        trace.close(2, Ending::Lost, &Done { bytes: 7, digest: Some([1; 32]), ..Done::default() });
        world
    }

    fn is_broken(&self) -> bool {
        let trace = self.start();
        let refused = [trace.admit(&alice(), b"x").map(drop), trace.seal(), trace.transcript().map(drop)];
        let broken = matches!(trace.state(), State::Broken(_));
        for refused in refused {
            let code = refused.err().map(|refusal| refusal.code);
            assert_eq!(code == Some(Code::Untraceable), broken, "{code:?}");
        }
        broken
    }
}

#[test]
fn the_first_session_is_in_the_register_and_all_are_in_the_chain() {
    let world = World::entered();
    let entries = world.entries();
    assert_eq!(entries.len(), 5);
    let state = world.register.state();
    assert!(state.locked);
    assert_eq!(state.value.0, entry::pcr17(&entries[0]));
    let mut chain = Chain::default();
    let events: Vec<_> = entries.iter().map(|entry| chain.push(entry).unwrap().event).collect();
    assert!(matches!(&events[0], Event::Open { request, .. } if request == b"one"));
    assert!(matches!(&events[4], Event::Close { session: 2, bytes: 7, .. }));
    assert_eq!(fs::read(world.path().join(HEAD_FILE)).unwrap(), chain.head().0);
}

#[test]
fn before_anybody_entered_the_head_is_that_of_no_entries() {
    let world = World::new();
    let trace = world.start();
    assert_eq!(trace.state(), State::Fresh);
    assert_eq!(fs::read(world.path().join(HEAD_FILE)).unwrap(), Head::empty().0);
    assert_eq!(trace.transcript().unwrap().1, 0);
    assert_eq!(world.register.state(), PcrState { locked: false, value: Pcr::ZERO });
}

#[test]
fn a_sealed_enclave_admits_nobody_for_good() {
    let world = World::new();
    let trace = world.start();
    trace.seal().unwrap();
    for trace in [trace, world.start()] {
        assert_eq!(trace.admit(&alice(), b"x").unwrap_err().code, Code::Sealed);
        assert_eq!(trace.seal().unwrap_err().code, Code::Sealed);
        assert_eq!(trace.transcript().unwrap_err().code, Code::Sealed);
    }
    assert_eq!(world.register.state(), PcrState { locked: true, value: Pcr::ZERO });
}

#[test]
fn who_was_entered_cannot_be_sealed() {
    let world = World::entered();
    assert_eq!(world.start().seal().unwrap_err().code, Code::Entered);
}

#[test]
fn a_module_that_fails_admits_nobody() {
    for call in ["describe", "extend", "lock"] {
        let world = World::new();
        world.register.fail(call);
        let trace = world.start();
        assert_eq!(trace.admit(&alice(), b"x").unwrap_err().code, Code::Untraceable, "{call}");
        // Not the second time either, although the module may work again.
        *world.register.broken.lock().unwrap() = None;
        assert_eq!(trace.admit(&alice(), b"x").unwrap_err().code, Code::Untraceable, "{call}");
    }
    let world = World::new();
    let trace = world.start();
    world.register.fail("lock");
    assert_eq!(trace.seal().unwrap_err().code, Code::Untraceable);
}

#[test]
fn a_transcript_that_cannot_be_written_admits_nobody() {
    let world = World::new();
    let trace = world.start();
    fs::create_dir(world.path().join(TRANSCRIPT_FILE)).unwrap();
    assert_eq!(trace.admit(&alice(), b"x").unwrap_err().code, Code::Untraceable);
    assert_eq!(world.register.state().value, Pcr::ZERO);
}

#[test]
fn a_restarted_server_goes_on_where_the_last_one_was() {
    let world = World::entered();
    let trace = world.start();
    assert_eq!(trace.state(), State::Entered);
    assert_eq!(trace.admit(&alice(), b"four").unwrap(), 7);
    let mut chain = Chain::default();
    let events: Vec<_> = world.entries().iter().map(|entry| chain.push(entry).unwrap().event).collect();
    assert_eq!(events[5], Event::Restart);
    assert_eq!(trace.head(), chain.head());
}

/// The server can be killed between any two writes.
#[test]
fn what_a_killed_server_leaves_half_done_is_finished() {
    // The last entry is there in part.
    let world = World::entered();
    let path = world.path().join(TRANSCRIPT_FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0, 0, 0, 9, 1, 2]);
    fs::write(&path, bytes).unwrap();
    assert!(!world.is_broken());
    // The last entry is there, its head is not.
    let world = World::entered();
    let head = fs::read(world.path().join(HEAD_FILE)).unwrap();
    drop(world.start());
    fs::write(world.path().join(HEAD_FILE), head).unwrap();
    assert!(!world.is_broken());
    // The register was extended and not locked.
    let world = World::new();
    world.start().admit(&alice(), b"one").unwrap();
    world.register.state.lock().unwrap().locked = false;
    assert!(!world.is_broken());
    assert!(world.register.state().locked);
}

#[test]
fn a_transcript_that_was_changed_is_noticed() {
    type Change = fn(&mut Vec<Vec<u8>>);
    let changes: [(&str, Change); 5] = [
        ("the last entry dropped", |entries| drop(entries.drain(3..))),
        ("an entry in the middle dropped", |entries| drop(entries.remove(2))),
        ("two entries swapped", |entries| entries.swap(1, 2)),
        ("the first entry altered", |entries| *entries[0].last_mut().unwrap() ^= 1),
        ("an entry altered", |entries| *entries[2].last_mut().unwrap() ^= 1),
    ];
    for (what, change) in changes {
        let world = World::entered();
        let mut entries = world.entries();
        change(&mut entries);
        world.write_entries(&entries);
        assert!(world.is_broken(), "{what}");
    }
    assert!(!World::entered().is_broken());
}

#[test]
fn files_and_register_that_do_not_agree_admit_nobody() {
    // The register of another enclave.
    let world = World::entered();
    world.register.state.lock().unwrap().value = Pcr([7; 48]);
    assert!(world.is_broken());
    // Entered, but the transcript is gone.
    let world = World::entered();
    fs::remove_dir_all(world.path()).unwrap();
    assert!(world.is_broken());
    // A transcript, but nobody entered.
    let world = World::entered();
    *world.register.state.lock().unwrap() = PcrState { locked: false, value: Pcr::ZERO };
    assert!(world.is_broken());
    // The head of another chain.
    let world = World::entered();
    fs::write(world.path().join(HEAD_FILE), [0; 32]).unwrap();
    assert!(world.is_broken());
}
