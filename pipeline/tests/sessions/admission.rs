//! Who is admitted, and the trace of it.

use std::time::{Duration, Instant};

use pipeline::{
    Limits,
    frame::Kind,
    reply::Code,
    request::{RecvFile, Request},
    trace::{
        chain::{Chain, read_entries},
        entry::{Entry, Event, Head, pcr17},
    },
};

use crate::world::{World, operator, run, shell};

#[tokio::test]
async fn without_the_capability_nobody_enters() {
    let world = World::new();
    let file = RecvFile { path: b"/etc/passwd".to_vec(), resume: false };
    for (may, request) in [
        ("shell", run("true")),
        ("exec", shell("true", 80, 24)),
        ("exec", Request::Seal),
        ("exec", Request::Services),
        ("read:/srv", Request::RecvFile(file)),
    ] {
        let outcome = world.ask_as(&operator(&[may]), &request).await.outcome().await;
        assert_eq!(outcome.code(), Code::Denied, "{request:?}");
    }
    assert!(world.is_unentered());
    assert_eq!(world.ask_as(&operator(&["exec"]), &run("exit 2")).await.outcome().await.status(), 2);
    assert!(!world.is_unentered());
}

#[tokio::test]
async fn a_sealed_enclave_says_so_to_everybody_even_after_a_restart() {
    let mut world = World::new();
    assert_eq!(world.ask(&Request::Seal).await.outcome().await.status(), 0);
    let state = world.pcr17();
    assert!(state.locked && state.value == nsm::Pcr::ZERO);
    for _ in 0..2 {
        for request in
            [run("true"), Request::Seal, Request::Transcript { from: 1 }, Request::Status { id: None }]
        {
            let outcome = world.ask(&request).await.outcome().await;
            assert_eq!(outcome.code(), Code::Sealed, "{request:?}");
            assert!(outcome.refused.unwrap().message.contains("sealed"));
        }
        world.restart();
    }
}

#[tokio::test]
async fn sealing_is_refused_once_somebody_entered() {
    let world = World::new();
    world.run("true").await;
    assert_eq!(world.ask(&Request::Seal).await.outcome().await.code(), Code::Entered);
}

/// Reads a transcript as an auditor does.
fn audit(transcript: &[u8]) -> (Vec<Entry>, Head, [u8; 48]) {
    let (mut chain, mut entries, mut register) = (Chain::default(), Vec::new(), [0; 48]);
    let bytes = read_entries(transcript, |entry| {
        if entries.is_empty() {
            register = pcr17(entry);
        }
        entries.push(chain.push(entry).unwrap());
        Ok(())
    });
    assert_eq!(bytes.unwrap(), transcript.len() as u64);
    (entries, chain.head(), register)
}

#[tokio::test]
async fn an_auditor_finds_every_session_and_the_register_agrees() {
    let world = World::new();
    world.run("exit 3").await;
    world.run("exit 4").await;
    let auditor = operator(&["read:/nothing"]);
    let outcome = world.ask_as(&auditor, &Request::Transcript { from: 1 }).await.outcome().await;
    let (entries, head, register) = audit(&outcome.stdout);
    assert_eq!(world.pcr17().value.0, register);
    assert_eq!(std::fs::read(world.control().join("head")).unwrap(), head.0);
    let scripts: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Open { operator, request, .. } => {
                Some((operator.clone(), Request::decode(request).unwrap()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(scripts, [("alice".to_owned(), run("exit 3")), ("alice".to_owned(), run("exit 4"))]);
    assert_eq!(entries.len(), 4);
    let rest = world.ask_as(&auditor, &Request::Transcript { from: 4 }).await.outcome().await;
    assert_eq!(rest.stdout[..], outcome.stdout[outcome.stdout.len() - rest.stdout.len()..]);
    assert!(rest.stdout.len() > 4);
    let next = world.ask_as(&auditor, &Request::Transcript { from: 5 }).await.outcome().await;
    assert_eq!(next.stdout, b"");
    let beyond = world.ask_as(&auditor, &Request::Transcript { from: 6 }).await.outcome().await;
    assert_eq!(beyond.code(), Code::NotFound);
}

#[tokio::test]
async fn reading_the_transcript_is_not_entering() {
    let world = World::new();
    let outcome = world.ask(&Request::Transcript { from: 1 }).await.outcome().await;
    assert_eq!((outcome.status(), &outcome.stdout[..]), (0, &b""[..]));
    assert!(world.is_unentered());
}

#[tokio::test]
async fn a_restart_goes_on_with_the_trace_and_a_changed_one_admits_nobody() {
    let mut world = World::new();
    world.run("true").await;
    world.restart();
    assert_eq!(world.run("exit 3").await.status(), 3);
    let path = world.control().join("transcript");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    world.restart();
    for request in [run("true"), Request::Seal, Request::Transcript { from: 1 }] {
        assert_eq!(world.ask(&request).await.outcome().await.code(), Code::Untraceable);
    }
}

#[tokio::test]
async fn sessions_over_the_limit_are_refused_and_others_go_on() {
    let world = World::with(Limits { sessions: 2, ..Limits::default() });
    let mut first = world.ask(&run("echo ready; read x; exit 3")).await;
    let mut second = world.ask(&run("echo ready; read x; exit 3")).await;
    first.until("ready").await;
    second.until("ready").await;
    assert_eq!(world.run("true").await.code(), Code::Busy);
    first.send(Kind::StdinEnd, b"").await;
    assert_eq!(first.outcome().await.status(), 3);
    assert_eq!(world.run("true").await.status(), 0);
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let short = Duration::from_millis(200);
    let world = World::with(Limits { request: short, idle: short, ..Limits::default() });
    let silent = world.connect(&operator(&["exec"]));
    assert_eq!(silent.outcome().await.code(), Code::Idle);
    let mute = world.ask(&run("sleep 1000")).await;
    assert_eq!(mute.outcome().await.code(), Code::Idle);
}

#[tokio::test]
async fn a_client_that_only_says_that_it_is_there_is_not_silent() {
    // Many times what lies between two signs of life, so that a machine that stands still for a moment is no silence.
    let idle = Duration::from_secs(4);
    let world = World::with(Limits { idle, ..Limits::default() });
    let (gate, wait) = world.gate();
    let mut client = world.ask(&run(&format!("{wait}; exit 3"))).await;
    let start = Instant::now();
    while start.elapsed() < idle * 5 / 4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(Kind::Signal, &[0]).await;
    }
    std::fs::write(gate, "").unwrap();
    assert_eq!(client.outcome().await.status(), 3);
}
