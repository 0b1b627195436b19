//! Programs with pipes.

use std::num::NonZeroU64;

use pipeline::{
    STDIN_WINDOW_BYTES,
    frame::Kind,
    reply::{Code, Exit},
    request::{Program, Request, Run},
};

use crate::world::{World, eventually, marker, processes_with, run, run_of};

#[tokio::test]
async fn streams_are_bytes_and_the_status_is_exact() {
    let world = World::new();
    let mut client = world.ask(&run("cat; printf 'err\\377' >&2; exit 7")).await;
    client.send(Kind::Stdin, b"in\xff\0").await;
    client.send(Kind::StdinEnd, b"").await;
    let outcome = client.outcome().await;
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"in\xff\0"[..], &b"err\xff"[..]));
    assert_eq!(outcome.exit, Some(Exit { status: 7, signal: None, timed_out: false }));
    assert!(outcome.accepted.unwrap().id.is_some());
}

/// A signalled process once passed for a success.
#[tokio::test]
async fn a_signal_is_named_and_is_no_success() {
    let exit = World::new().run("kill -KILL $$").await.exit;
    assert_eq!(exit, Some(Exit { status: 137, signal: Some(9), timed_out: false }));
}

#[tokio::test]
async fn words_are_not_seen_by_a_shell() {
    let world = World::new();
    let words = ["printf", "%s\n", "$HOME; *", ""].map(|word| word.as_bytes().to_vec()).to_vec();
    let request = Request::Run(Run { program: Program::Words(words), ..run_of("") });
    assert_eq!(world.ask(&request).await.outcome().await.text(), "$HOME; *\n\n");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_to_be_missing() {
    let world = World::new();
    let request =
        Request::Run(Run { program: Program::Words(vec![b"no-such-program".to_vec()]), ..run_of("") });
    let outcome = world.ask(&request).await.outcome().await;
    assert_eq!(outcome.code(), Code::NotFound);
    assert!(outcome.refused.unwrap().message.contains("no-such-program"));
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let outcome = World::new().run("head -c 20000000 /dev/zero; exit 3").await;
    assert_eq!((outcome.stdout.len(), outcome.status()), (20_000_000, 3));
}

#[tokio::test]
async fn much_input_arrives_whole_within_its_window() {
    let world = World::new();
    let mut client = world.ask(&run("wc -c")).await;
    let (mut left, mut window) = (5_000_000, STDIN_WINDOW_BYTES);
    while left > 0 {
        let count = left.min(window).min(30_000);
        if count == 0 {
            let frame = client.next().await.unwrap();
            if frame.kind == Kind::StdinWindow {
                window += u32::from_be_bytes(frame.payload[..].try_into().unwrap()) as usize;
            }
            continue;
        }
        client.send(Kind::Stdin, &vec![7; count]).await;
        (left, window) = (left - count, window - count);
    }
    client.send(Kind::StdinEnd, b"").await;
    assert_eq!(client.outcome().await.text().trim(), "5000000");
}

#[tokio::test]
async fn input_beyond_the_window_is_refused() {
    let marker = marker();
    let world = World::new();
    let mut client = world.ask(&run(&format!("sleep {marker}"))).await;
    for _ in 0..=STDIN_WINDOW_BYTES / 32_768 + 4 {
        // The server may have hung up by then.
        if client.writer.send(Kind::Stdin, &[7; 32_768]).await.is_err() {
            break;
        }
    }
    assert_eq!(client.outcome().await.code(), Code::Malformed);
    eventually("the program is gone", || processes_with(&marker) == 0).await;
}

/// Input that the program does not read must not keep a signal from it.
#[tokio::test]
async fn a_signal_overtakes_input_that_nobody_reads() {
    let world = World::new();
    let mut client = world.ask(&run("trap 'exit 5' INT; echo ready; while :; do sleep 0.02; done")).await;
    client.until("ready").await;
    for _ in 0..STDIN_WINDOW_BYTES / 32_768 {
        client.send(Kind::Stdin, &[7; 32_768]).await;
    }
    client.send(Kind::Signal, &[2]).await;
    assert_eq!(client.outcome().await.status(), 5);
}

#[tokio::test]
async fn input_for_a_program_that_reads_none_is_dropped() {
    let world = World::new();
    let (gate, wait) = world.gate();
    let mut client = world.ask(&run(&format!("exec <&-; echo closed; {wait}; exit 4"))).await;
    client.until("closed").await;
    client.send(Kind::Stdin, &[7; 32_768]).await;
    client.send(Kind::StdinEnd, b"").await;
    std::fs::write(gate, "").unwrap();
    assert_eq!(client.outcome().await.status(), 4);
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_all_it_started() {
    let marker = marker();
    // Long enough for a shell to start and speak on a machine that is busy.
    let timeout_ms = NonZeroU64::new(3000);
    let script = format!("echo before; sleep {marker} & sleep {marker}");
    let request = Request::Run(Run { timeout_ms, ..run_of(&script) });
    let outcome = World::new().ask(&request).await.outcome().await;
    assert_eq!(outcome.exit, Some(Exit { status: 137, signal: Some(9), timed_out: true }));
    assert_eq!(outcome.text(), "before\n");
    eventually("its processes are gone", || processes_with(&marker) == 0).await;
}

/// A program that leaves a child behind, which holds the output, once kept its client waiting for as long as the child.
#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let marker = marker();
    let outcome = World::new().run(&format!("sleep {marker} & echo done; exit 6")).await;
    assert_eq!((outcome.text().as_str(), outcome.status()), ("done\n", 6));
    eventually("the child is gone", || processes_with(&marker) == 0).await;
    // A group of its own does not help it either, as long as it holds on to the output.
    let marker = crate::world::marker();
    let outcome = World::new().run(&format!("set -m; sleep {marker} & exit 6")).await;
    assert_eq!(outcome.status(), 6);
    eventually("the child in a group of its own is gone", || processes_with(&marker) == 0).await;
}

#[tokio::test]
async fn a_client_that_is_gone_takes_its_program_along() {
    let marker = marker();
    let world = World::new();
    let mut client =
        world.ask(&run(&format!("set -m; sleep {marker} & sleep {marker} & echo ready; wait"))).await;
    client.until("ready").await;
    assert!(processes_with(&marker) >= 2);
    drop((client.reader, client.writer));
    client.server.await.unwrap();
    eventually("its processes are gone", || processes_with(&marker) == 0).await;
}

#[tokio::test]
async fn a_hundred_at_once_all_get_their_own() {
    let world = World::new();
    let mut clients = Vec::new();
    for i in 0..100 {
        clients.push((i, world.ask(&run(&format!("read x; echo {i} $x; exit {i}"))).await));
    }
    for (i, client) in &mut clients {
        client.send(Kind::Stdin, format!("input {i}\n").as_bytes()).await;
    }
    for (i, client) in clients {
        let outcome = client.outcome().await;
        assert_eq!((outcome.text(), outcome.status()), (format!("{i} input {i}\n"), i));
    }
}
