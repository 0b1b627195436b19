//! A crowd of operators: everybody is served, and memory does not grow with what they move. Alone in its process, because
//! it looks at what that has taken.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

#[path = "sessions/world.rs"]
#[expect(dead_code, reason = "the other tests use all of it")]
mod world;

use std::{fs, path::Path, sync::Arc, time::Duration};

use pipeline::{
    Limits, Sessions,
    frame::Kind,
    request::{RecvFile, Request},
    trace::Trace,
    transfer::{Meter, Place, ReceiveOptions, Target, TransferVerbs, client::download},
};
use tokio::task::JoinSet;

use world::{World, application, operator, run};

const RUNS: usize = 220;
const TRANSFERS: usize = 64;

/// What each run prints and each transfer moves, in bytes.
const EACH_BYTES: usize = 3 << 20;

/// Much less than all of that together (852 MiB), much more than the windows and buffers of both sides.
const ROOM_BYTES: u64 = 300 << 20;

/// A transfer at a time needs as long as this machine takes for all of them.
const PATIENCE: Duration = Duration::from_secs(300);

/// The most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn transfer(sessions: Arc<Sessions>, from: String, to: std::path::PathBuf) {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    let serving = tokio::spawn(async move { sessions.serve(theirs, &operator(&["read:/"])).await });
    let request = Request::RecvFile(RecvFile { path: from.into_bytes(), resume: false });
    let target = Target::File { place: Place::local(&to).unwrap(), mode: None };
    let options = ReceiveOptions::default();
    download(&mut ours, &request, target, options, Meter::default(), PATIENCE).await.unwrap();
    drop(ours);
    serving.await.unwrap();
}

/// A program that says that it is there, and prints much when it is told to.
async fn print(world: Arc<World>) {
    let script = format!("read x; head -c {EACH_BYTES} /dev/zero; exit 3");
    let mut client = world.ask(&run(&script)).await;
    client.send(Kind::Stdin, b"go\n").await;
    let mut bytes = 0;
    loop {
        let frame = tokio::time::timeout(PATIENCE, client.reader.next()).await.unwrap().unwrap().unwrap();
        match frame.kind {
            Kind::Stdout => bytes += frame.payload.len(),
            Kind::Exit => break,
            Kind::Accepted | Kind::StdinWindow => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes, EACH_BYTES);
}

fn sessions_for_transfers(state: &Path, world: &World) -> Arc<Sessions> {
    let trace = Arc::new(Trace::open(state, world.module.clone()));
    let verbs = Box::new(TransferVerbs::new(PATIENCE));
    Arc::new(Sessions::new(application(), trace, Limits::default(), None, vec![verbs]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_runs_and_sixty_four_transfers_at_once_take_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::write(&source, vec![7; EACH_BYTES]).unwrap();
    let world = Arc::new(World::new());
    let movers = World::new();
    let sessions = sessions_for_transfers(&folder.path().join("control"), &movers);
    // All that is made once is made.
    assert_eq!(world.run("exit 3").await.status(), 3);
    let before = peak();
    let mut all = JoinSet::new();
    for _ in 0..RUNS {
        all.spawn(print(world.clone()));
    }
    for number in 0..TRANSFERS {
        let (from, to) = (source.to_str().unwrap().to_owned(), folder.path().join(format!("to-{number}")));
        all.spawn(transfer(sessions.clone(), from, to));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let taken = peak() - before;
    assert!(taken < ROOM_BYTES, "{} MiB", taken >> 20);
    for number in 0..TRANSFERS {
        assert_eq!(
            fs::metadata(folder.path().join(format!("to-{number}"))).unwrap().len(),
            EACH_BYTES as u64
        );
    }
}
