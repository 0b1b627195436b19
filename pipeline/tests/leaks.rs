//! Nothing of a session outlives it: no descriptor, no zombie. Alone in its process, because it counts both.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

#[path = "sessions/world.rs"]
#[expect(dead_code, reason = "the other tests use all of it")]
mod world;

use pipeline::frame::Kind;

use world::{World, eventually, run, shell};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> usize {
    let parent = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").unwrap();
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    };
    let is_child = |stat: &String| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split_ascii_whitespace().nth(1) == Some(&parent))
    };
    entries.filter_map(stat).filter(is_child).count()
}

#[tokio::test]
async fn sessions_leave_neither_descriptors_nor_zombies() {
    let world = World::new();
    // What is made once, such as the transcript's file, is there after the first.
    world.run("true").await;
    let before = descriptors();
    for i in 0..60 {
        match i % 4 {
            0 => drop(world.run("echo x; sleep 100 &").await),
            1 => {
                let mut client = world.ask(&run("echo ready; sleep 1000")).await;
                client.until("ready").await;
                drop((client.reader, client.writer));
                client.server.await.unwrap();
            }
            2 => {
                let mut client = world
                    .ask(&shell("trap 'exit 130' INT; echo ready; while :; do sleep 0.02; done", 80, 24))
                    .await;
                client.until("ready").await;
                client.send(Kind::Stdin, &[3]).await;
                assert_eq!(client.outcome().await.status(), 130);
            }
            _ => {
                let mut client = world.ask(&run("echo ready; sleep 1000")).await;
                client.until("ready").await;
                // The server itself is told to stop.
                client.server.abort();
                let _ = client.server.await;
            }
        }
    }
    eventually("every process is reaped", || children() == 0).await;
    eventually("every descriptor is closed", || descriptors() <= before).await;
}
