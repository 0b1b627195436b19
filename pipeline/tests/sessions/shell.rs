//! Programs on a terminal.

use pipeline::{
    frame::Kind,
    request::{Request, Run, Terminal, WindowSize},
};

use crate::world::{World, eventually, marker, processes_with, run_of, shell};

#[tokio::test]
async fn a_shell_has_a_terminal_of_the_clients_size_and_kind() {
    let world = World::new();
    let mut client = world.ask(&shell("stty size; echo $TERM; tty; read x; exit 9", 100, 40)).await;
    let shown = client.until("/dev/pts/").await;
    assert!(shown.contains("40 100\r\nxterm\r\n"), "{shown:?}");
    client.send(Kind::Stdin, b"\r").await;
    assert_eq!(client.outcome().await.status(), 9);
}

#[tokio::test]
async fn a_window_that_changes_is_seen_inside() {
    let world = World::new();
    let script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut client = world.ask(&shell(script, 80, 24)).await;
    client.until("ready").await;
    client.send(Kind::WindowSize, &WindowSize { columns: 132, rows: 50 }.to_bytes()).await;
    let outcome = client.outcome().await;
    assert_eq!((outcome.text().trim(), outcome.status()), ("50 132", 3));
}

#[tokio::test]
async fn an_interrupt_reaches_the_foreground_and_not_the_shell() {
    let world = World::new();
    let mut client = world.ask(&shell("exec sh -i", 80, 24)).await;
    // Said by the foreground itself: before it is there, an interrupt is the shell's.
    client.send(Kind::Stdin, b"sh -c 'echo rea\"\"dy; exec sleep 1000'; echo af''ter $?\r").await;
    client.until("ready").await;
    client.send(Kind::Stdin, &[3]).await;
    // Some shells drop the rest of an interrupted line.
    client.send(Kind::Stdin, b"\recho still he''re\r").await;
    client.until("still here").await;
    client.send(Kind::Stdin, b"exit 4\r").await;
    assert_eq!(client.outcome().await.status(), 4);
}

#[tokio::test]
async fn the_end_of_input_ends_a_shell() {
    let world = World::new();
    let mut client = world.ask(&shell("cat; exit 8", 80, 24)).await;
    client.send(Kind::Stdin, b"line\r").await;
    client.send(Kind::StdinEnd, b"").await;
    assert_eq!(client.outcome().await.status(), 8);
}

#[tokio::test]
async fn a_closed_window_ends_all_jobs() {
    let marker = marker();
    let world = World::new();
    let script =
        format!("set -m; trap '' HUP; sleep {marker} & (trap '' HUP; sleep {marker}) & echo ready; wait");
    let mut client = world.ask(&shell(&script, 80, 24)).await;
    client.until("ready").await;
    drop((client.reader, client.writer));
    client.server.await.unwrap();
    eventually("all jobs are gone", || processes_with(&marker) == 0).await;
}

#[tokio::test]
async fn a_run_can_have_a_terminal_too() {
    let world = World::new();
    let terminal = Terminal { term: "dumb".into(), size: WindowSize { columns: 20, rows: 10 } };
    let run = Run { terminal: Some(terminal), ..run_of("test -t 0 && test -t 1 && test -t 2 && stty size") };
    let outcome = world.ask(&Request::Run(run)).await.outcome().await;
    assert_eq!((outcome.text().trim(), outcome.status()), ("10 20", 0));
}
