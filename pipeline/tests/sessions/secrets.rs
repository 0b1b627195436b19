//! Secrets on their way to init.

use std::path::Path;

use pipeline::{frame::Kind, reply::Code, request::Request};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    task::JoinHandle,
};

use crate::world::{World, operator};

const VALUE: &[u8] = b"half\nand half\0\xff";

/// An init that takes one secret and then answers `reply`. What it was told is the task's output.
fn init(socket: &Path, reply: &'static str) -> JoinHandle<(String, Vec<u8>)> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let length = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        let mut value = vec![0; length];
        stream.read_exact(&mut value).await.unwrap();
        stream.write_all(reply.as_bytes()).await.unwrap();
        (line, value)
    })
}

fn set() -> Request {
    Request::SecretSet { secret: "token".to_owned() }
}

#[tokio::test]
async fn a_value_reaches_init_as_it_is_and_the_transcript_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("init.sock");
    let init = init(&socket, "ok\n");
    let world = World::with_init(socket);
    let mut client = world.ask_as(&operator(&["secrets"]), &set()).await;
    for part in VALUE.chunks(5) {
        client.send(Kind::Stdin, part).await;
    }
    client.send(Kind::StdinEnd, &[]).await;
    assert_eq!(client.outcome().await.status(), 0);
    assert_eq!(init.await.unwrap(), (format!("give token {}\n", VALUE.len()), VALUE.to_vec()));
    let transcript = std::fs::read(world.control().join("transcript")).unwrap();
    let has = |what: &[u8]| transcript.windows(what.len()).any(|window| window == what);
    assert!(has(b"token") && !has(b"half"));
    assert!(!world.is_unentered());
}

#[tokio::test]
async fn what_init_says_of_it_reaches_the_operator() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("init.sock");
    let init = init(&socket, "error: no service of the image has a secret \"token\"\n");
    let world = World::with_init(socket);
    let mut client = world.ask_as(&operator(&["secrets"]), &set()).await;
    client.send(Kind::StdinEnd, &[]).await;
    let outcome = client.outcome().await;
    assert_eq!(outcome.code(), Code::NotFound);
    assert!(outcome.refused.unwrap().message.contains("token"));
    assert_eq!(init.await.unwrap().1, b"");
}

#[tokio::test]
async fn a_value_that_is_too_long_or_breaks_off_reaches_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("init.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let world = World::with_init(socket);
    let mut client = world.ask_as(&operator(&["secrets"]), &set()).await;
    client.send(Kind::Stdin, &[7; 40_000]).await;
    client.send(Kind::Stdin, &[7; 40_000]).await;
    assert_eq!(client.outcome().await.code(), Code::NoSpace);
    let mut client = world.ask_as(&operator(&["secrets"]), &set()).await;
    client.send(Kind::Stdin, b"half").await;
    let server = client.server;
    drop((client.reader, client.writer));
    server.await.unwrap();
    assert!(
        tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await.is_err(),
        "init was not called"
    );
}
