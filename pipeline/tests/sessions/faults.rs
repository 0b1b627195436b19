//! Peers that do not keep to the protocol, and streams that break.

use pipeline::{
    client,
    frame::{Kind, header},
    reply::Code,
    request::{Request, RunId},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::fault::{FaultStream, Faults};

use crate::world::{World, eventually, marker, operator, outcome, processes_with, run, run_of, shell};

#[tokio::test]
async fn one_byte_at_a_time_is_enough() {
    let world = World::new();
    let (ours, theirs) = tokio::io::duplex(1);
    let faults = Faults {
        seed: 7,
        partial_write_percent: 50,
        one_byte_read_percent: 100,
        stall_percent: 2,
        max_stall: std::time::Duration::from_millis(2),
        ..Faults::default()
    };
    let client = world.connect_over(ours, FaultStream::new(theirs, &faults), &operator(&["exec"]));
    let mut writer = client.writer;
    let writing = async {
        writer.send(Kind::Request, &run("cat; exit 7").encode().unwrap()).await.unwrap();
        writer.send(Kind::Stdin, &[b'x'; 1000]).await.unwrap();
        writer.send(Kind::StdinEnd, b"").await.unwrap();
    };
    // Nothing can be written for long while nobody reads.
    let ((), outcome) = tokio::join!(writing, outcome(client.reader));
    assert_eq!((outcome.stdout, outcome.exit.unwrap().status), (vec![b'x'; 1000], 7));
}

/// Cuts the connection after every frame of a run, and in the middle of each.
#[tokio::test]
async fn a_cut_anywhere_leaves_no_process() {
    let world = World::new();
    let marker = marker();
    let request = run(&format!("sleep {marker} & cat; sleep {marker}")).encode().unwrap();
    let frames = [
        (Kind::Request, request),
        (Kind::Stdin, b"some".to_vec()),
        (Kind::WindowSize, vec![0, 80, 0, 24]),
        (Kind::Signal, vec![0]),
        (Kind::StdinEnd, vec![]),
    ];
    for whole in 0..=frames.len() {
        for part in [0, 1, 5, 6] {
            let (mut ours, theirs) = tokio::io::duplex(64 << 10);
            let (sessions, operator) = (world.sessions.clone(), operator(&["exec"]));
            let server = tokio::spawn(async move { sessions.serve(theirs, &operator).await });
            let mut bytes: Vec<u8> = Vec::new();
            for (kind, payload) in &frames[..whole] {
                bytes.extend(header(*kind, payload.len()));
                bytes.extend(payload);
            }
            if let Some((kind, payload)) = frames.get(whole) {
                bytes.extend([&header(*kind, payload.len())[..], payload].concat().iter().take(part));
            }
            ours.write_all(&bytes).await.unwrap();
            if whole > 0 && part == 0 {
                // The program runs by now, or will be found to have lost its client as soon as it does.
                let _ = ours.read_u8().await.unwrap();
            }
            drop(ours);
            tokio::time::timeout(std::time::Duration::from_secs(30), server).await.unwrap().unwrap();
        }
    }
    eventually("all processes are gone", || processes_with(&marker) == 0).await;
}

/// Every verb of this crate's core but `run`, which has a test of its own, with a client that is gone after any byte of its
/// request, and right behind it.
#[tokio::test]
async fn a_client_of_any_verb_may_be_gone_after_any_byte() {
    let world = World::new();
    let marker = marker();
    let background = run_of(&format!("exec sleep 0{marker}"));
    let all = ["exec", "read:/", "seal", "secrets", "services", "shell", "write:/"];
    for request in [
        shell(&format!("sleep {marker}"), 80, 24),
        Request::Run(pipeline::request::Run { no_wait: true, ..background }),
        Request::Status { id: None },
        Request::Logs { id: RunId(1), follow: true },
        Request::Kill { id: RunId(1), signal: 9 },
        Request::Services,
        Request::ServiceLogs { service: "main".into() },
        Request::ServiceRestart { service: "main".into() },
        Request::Secrets,
        Request::SecretSet { secret: "token".into() },
        Request::Transcript { from: 1 },
        Request::Seal,
    ] {
        let payload = request.encode().unwrap();
        let bytes = [&header(Kind::Request, payload.len())[..], &payload].concat();
        for cut in 0..=bytes.len() {
            let (mut ours, theirs) = tokio::io::duplex(64 << 10);
            let (sessions, operator) = (world.sessions.clone(), operator(&all));
            let server = tokio::spawn(async move { sessions.serve(theirs, &operator).await });
            ours.write_all(&bytes[..cut]).await.unwrap();
            drop(ours);
            tokio::time::timeout(std::time::Duration::from_secs(60), server).await.unwrap().unwrap();
        }
    }
    // What was to go on without its client does so, once.
    eventually("only the run without a client is left", || processes_with(&marker) == 1).await;
    let status = world.ask(&Request::Status { id: None }).await.outcome().await;
    let id = serde_json::from_str::<serde_json::Value>(status.text().lines().next().unwrap()).unwrap();
    let id = RunId(id["id"].as_u64().unwrap());
    assert_eq!(world.ask(&Request::Kill { id, signal: 9 }).await.outcome().await.status(), 0);
    eventually("all processes are gone", || processes_with(&marker) == 0).await;
}

/// What a server sends is cut after every byte: its client says so, and never takes it for the program's end.
#[tokio::test]
async fn output_that_is_cut_anywhere_is_no_end() {
    let world = World::new();
    let mut server = world.connect(&operator(&["exec"]));
    server.send(Kind::Request, &run("echo out; echo err >&2; exit 7").encode().unwrap()).await;
    let mut bytes = Vec::new();
    while let Some(frame) = server.next().await {
        bytes.extend(header(frame.kind, frame.payload.len()));
        bytes.extend(&frame.payload);
    }
    drop(server.writer);
    for cut in 0..=bytes.len() {
        let (mut theirs, ours) = tokio::io::duplex(64 << 10);
        theirs.write_all(&bytes[..cut]).await.unwrap();
        theirs.shutdown().await.unwrap();
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let ended = client::ask(ours, &mut output, &mut errors).await;
        match ended {
            Ok(finished) => assert_eq!((cut, finished.exit.status), (bytes.len(), 7)),
            Err(error) => assert!(cut < bytes.len(), "{error}"),
        }
        assert!(b"out\n".starts_with(&output[..]) && b"err\n".starts_with(&errors[..]));
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_leaves_no_trace() {
    let world = World::new();
    let request = run("true").encode().unwrap();
    for (kind, payload) in [
        (Kind::Stdin, b"x".to_vec()),
        (Kind::Request, Vec::new()),
        (Kind::Request, vec![0xff; 100]),
        (Kind::Request, [&request[..], b"x"].concat()),
    ] {
        let mut client = world.connect(&operator(&["exec"]));
        client.send(kind, &payload).await;
        assert_eq!(client.outcome().await.code(), Code::Malformed, "{kind:?} {payload:?}");
    }
    // A length of 2^32 - 1, and a type that there is not.
    for bytes in [[1, 0xff, 0xff, 0xff, 0xff], [0x7f, 0, 0, 0, 0]] {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        ours.write_all(&bytes).await.unwrap();
        world.sessions.serve(theirs, &operator(&["exec"])).await;
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer[0], Kind::Refused as u8);
    }
    assert!(world.is_unentered());
}

#[tokio::test]
async fn frames_out_of_place_end_the_run() {
    let world = World::new();
    let marker = marker();
    for (kind, payload) in [
        (Kind::Request, &b"x"[..]),
        (Kind::Exit, b""),
        (Kind::Signal, &[65]),
        (Kind::WindowSize, &[1]),
        (Kind::Data, b"x"),
    ] {
        let mut client = world.ask(&run(&format!("sleep {marker}"))).await;
        client.send(kind, payload).await;
        assert_eq!(client.outcome().await.code(), Code::Malformed, "{kind:?}");
    }
    eventually("all processes are gone", || processes_with(&marker) == 0).await;
}
