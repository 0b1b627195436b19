//! Runs that nobody waits for.

use pipeline::{
    reply::{Code, Exit},
    request::{Request, Run, RunId},
    trace::{
        chain::{Chain, read_entries},
        entry::{Ending, Event},
    },
};

use crate::world::{World, eventually, marker, processes_with, run_of};

async fn start(world: &World, script: &str) -> RunId {
    let request = Request::Run(Run { no_wait: true, ..run_of(script) });
    let outcome = world.ask(&request).await.outcome().await;
    assert_eq!(outcome.status(), 0);
    outcome.accepted.unwrap().id.unwrap()
}

async fn status(world: &World, id: RunId) -> String {
    world.ask(&Request::Status { id: Some(id) }).await.outcome().await.text()
}

#[tokio::test]
async fn a_run_goes_on_without_its_client_and_its_end_is_kept() {
    let world = World::new();
    let (gate, wait) = world.gate();
    let id = start(&world, &format!("echo begun; {wait}; echo ended >&2; exit 5")).await;
    assert!(status(&world, id).await.contains("\"state\":\"running\""));
    std::fs::write(gate, "").unwrap();
    let outcome = world.ask(&Request::Logs { id, follow: true }).await.outcome().await;
    assert_eq!((outcome.text().as_str(), &outcome.stderr[..]), ("begun\n", &b"ended\n"[..]));
    assert_eq!(outcome.exit, Some(Exit { status: 5, ..Exit::default() }));
    let ended = status(&world, id).await;
    assert!(ended.contains("\"state\":\"ended\"") && ended.contains("\"status\":5"), "{ended}");
    // What was kept can be read again; reading it is a success of its own.
    let outcome = world.ask(&Request::Logs { id, follow: false }).await.outcome().await;
    assert_eq!((outcome.text().as_str(), outcome.status()), ("begun\n", 0));
}

#[tokio::test]
async fn a_run_can_be_ended() {
    let marker = marker();
    let world = World::new();
    let id = start(&world, &format!("sleep {marker} & sleep {marker}")).await;
    assert_eq!(world.ask(&Request::Kill { id, signal: 15 }).await.outcome().await.status(), 0);
    let outcome = world.ask(&Request::Logs { id, follow: true }).await.outcome().await;
    assert_eq!(outcome.exit, Some(Exit { status: 143, signal: Some(15), timed_out: false }));
    eventually("its processes are gone", || processes_with(&marker) == 0).await;
    let again = world.ask(&Request::Kill { id, signal: 15 }).await.outcome().await;
    assert_eq!(again.code(), Code::NotFound);
}

#[tokio::test]
async fn a_number_that_nobody_has_is_not_found() {
    let world = World::new();
    let id = RunId(77);
    for request in [
        Request::Status { id: Some(id) },
        Request::Logs { id, follow: true },
        Request::Kill { id, signal: 9 },
    ] {
        assert_eq!(world.ask(&request).await.outcome().await.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn the_transcript_has_the_end_of_a_run_when_it_ends() {
    let world = World::new();
    let (gate, wait) = world.gate();
    let id = start(&world, &format!("{wait}; exit 5")).await;
    let ended = || {
        let file = std::fs::File::open(world.control().join("transcript")).unwrap();
        let (mut chain, mut ending) = (Chain::default(), None);
        // The last entry may be half written when it is read.
        let _ = read_entries(file, |entry| {
            if let Event::Close { session, ending: found, .. } = chain.push(entry).unwrap().event
                && session == id.0
            {
                ending = Some(found);
            }
            Ok(())
        });
        ending
    };
    assert_eq!(ended(), None);
    std::fs::write(gate, "").unwrap();
    eventually("the run ends", || ended().is_some()).await;
    assert_eq!(ended(), Some(Ending::Exit(Exit { status: 5, ..Exit::default() })));
}
