use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::coalesce::Coalesced;
use crate::fault::{Ending, FaultStream, Faults};

/// Runs with a clock that jumps when nothing else can happen, so that a deadlock fails at once.
fn paused<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(36_000), future).await.expect("stuck") })
}

fn bytes(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i + salt) % 251).unwrap()).collect()
}

/// Sends `data` in pieces of `piece` bytes and ends its half, and meanwhile reads until the other half ends. Gives what arrived.
async fn talk(stream: DuplexStream, data: Vec<u8>, piece: usize) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        for chunk in data.chunks(piece) {
            // Refused when the relay has given up.
            if writer.write_all(chunk).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let mut received = Vec::new();
    let receiving = async {
        let _ = reader.read_to_end(&mut received).await;
    };
    tokio::join!(sending, receiving);
    received
}

struct Exchange {
    outcome: Result<Relayed, RelayError>,
    sent: [Vec<u8>; 2],
    received: [Vec<u8>; 2],
}

impl Exchange {
    fn is_complete(&self) -> bool {
        self.received[1] == self.sent[0] && self.received[0] == self.sent[1]
    }

    fn has_prefixes_only(&self) -> bool {
        self.sent[0].starts_with(&self.received[1]) && self.sent[1].starts_with(&self.received[0])
    }
}

#[derive(Clone, Debug)]
struct Plan {
    faults: [Faults; 2],
    lengths: [usize; 2],
    piece: usize,
    capacity: usize,
}

/// Two endpoints talk through a relay whose both connections misbehave, one of them behind the vsock rules.
async fn exchange(plan: &Plan) -> Exchange {
    let sent = [bytes(plan.lengths[0], 0), bytes(plan.lengths[1], 100)];
    let (end_a, near_a) = duplex(plan.capacity);
    let (end_b, near_b) = duplex(plan.capacity);
    let a = FaultStream::new(near_a, &plan.faults[0]);
    let b = Coalesced::new(FaultStream::new(near_b, &plan.faults[1]));
    let (outcome, at_a, at_b) = tokio::join!(
        relay(a, b, RelayOptions::default()),
        talk(end_a, sent[0].clone(), plan.piece),
        talk(end_b, sent[1].clone(), plan.piece),
    );
    Exchange { outcome, sent, received: [at_a, at_b] }
}

fn faults(ending: impl Strategy<Value = Ending>) -> impl Strategy<Value = Faults> {
    (any::<u64>(), 0u8..90, 0u8..50, 0u8..30, 0u64..300, ending).prop_map(
        |(seed, partial_write_percent, one_byte_read_percent, stall_percent, stall_ms, ending)| Faults {
            seed,
            partial_write_percent,
            one_byte_read_percent,
            stall_percent,
            max_stall: Duration::from_millis(stall_ms),
            ending,
        },
    )
}

fn plans(ending: impl Strategy<Value = Ending>) -> impl Strategy<Value = Plan> {
    let one = faults(Just(Ending::Natural));
    let sizes = (0usize..100_000, 0usize..100_000, 1usize..=300, 1usize..20_000);
    (faults(ending), one, sizes).prop_map(|(a, b, (to_b, to_a, piece, capacity))| Plan {
        faults: [a, b],
        lengths: [to_b, to_a],
        piece,
        capacity,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_arrives_through_partial_writes_short_reads_and_stalls(plan in plans(Just(Ending::Natural))) {
        let done = paused(exchange(&plan));
        prop_assert!(done.is_complete());
        let relayed = done.outcome.unwrap();
        prop_assert_eq!([relayed.a_to_b, relayed.b_to_a], plan.lengths.map(|length| length as u64));
    }

    #[test]
    fn reset_is_an_error_unless_everything_had_arrived(plan in plans((0u64..150_000).prop_map(Ending::ResetAfter))) {
        let done = paused(exchange(&plan));
        prop_assert!(done.has_prefixes_only());
        match &done.outcome {
            Ok(_) => prop_assert!(done.is_complete()),
            Err(RelayError::Read { source, .. } | RelayError::Write { source, .. }) => {
                prop_assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }

    /// A peer that closes in the middle of a message has made readers spin elsewhere.
    #[test]
    fn death_of_a_peer_ends_the_relay(plan in plans((0u64..150_000).prop_map(Ending::DeathAfter))) {
        let done = paused(exchange(&plan));
        prop_assert!(done.has_prefixes_only());
        if let Err(RelayError::Write { source, .. }) = &done.outcome {
            prop_assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
        } else {
            prop_assert!(done.outcome.is_ok());
        }
    }
}

/// Proxies that stop reading one side while they wait to write to it deadlock once the queues of both directions
/// are full.
#[test]
fn full_direction_does_not_stop_the_other() {
    paused(async {
        for swapped in [false, true] {
            let (to_b, to_a) = (bytes(1 << 20, 0), bytes(1 << 20, 5));
            let (mut a, near_a) = duplex(1000);
            let (b, near_b) = duplex(1000);
            let near_b = Coalesced::new(near_b);
            let options = RelayOptions::default();
            let relaying = if swapped {
                tokio::spawn(relay(near_b, near_a, options))
            } else {
                tokio::spawn(relay(near_a, near_b, options))
            };
            let b_side = tokio::spawn(talk(b, to_a.clone(), 300));
            // A writes everything before it reads anything, so all queues towards it fill up and stay full.
            for chunk in to_b.chunks(300) {
                a.write_all(chunk).await.unwrap();
            }
            a.shutdown().await.unwrap();
            let mut received = Vec::new();
            a.read_to_end(&mut received).await.unwrap();
            assert!(received == to_a);
            assert!(b_side.await.unwrap() == to_b);
            relaying.await.unwrap().unwrap();
        }
    });
}

#[test]
fn half_close_passes_on_one_end_of_file_only() {
    paused(async {
        let (mut a, near_a) = duplex(64);
        let (mut b, near_b) = duplex(64);
        let relaying = tokio::spawn(relay(near_a, near_b, RelayOptions::default()));
        a.write_all(b"question").await.unwrap();
        a.shutdown().await.unwrap();
        let mut question = Vec::new();
        b.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        tokio::time::sleep(Duration::from_secs(600)).await;
        let answering = tokio::spawn(async move { b.write_all(&[7; 5000]).await });
        let mut answer = Vec::new();
        a.read_to_end(&mut answer).await.unwrap();
        answering.await.unwrap().unwrap();
        assert_eq!(answer, [7; 5000]);
        assert_eq!(relaying.await.unwrap().unwrap(), Relayed { a_to_b: 8, b_to_a: 5000 });
    });
}

/// A proxy that joined its two copies with try-join cut off a response under way when the server stopped taking the
/// request, which servers do after an early answer. Closing with the request unread would do the same by a reset.
#[test]
fn answer_under_way_survives_a_refused_upload() {
    paused(async {
        // The short answer is over long before the upload, the long one long after.
        for length in [50, 50_000] {
            let (mut client, near_client) = duplex(100);
            let (mut answering, answer) = duplex(100);
            let (refusing, _) = duplex(1);
            let server = tokio::io::join(answer, refusing);
            let relaying = tokio::spawn(relay(near_client, server, RelayOptions::default()));
            let client = tokio::spawn(async move {
                client.write_all(&bytes(100_000, 0)).await.unwrap();
                tokio::time::sleep(Duration::from_secs(3)).await;
                client.write_all(&bytes(100_000, 0)).await.unwrap();
                client.shutdown().await.unwrap();
                let mut received = Vec::new();
                client.read_to_end(&mut received).await.unwrap();
                received
            });
            for chunk in bytes(length, 3).chunks(1000) {
                answering.write_all(chunk).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            drop(answering);
            assert!(client.await.unwrap() == bytes(length, 3));
            let error = relaying.await.unwrap().unwrap_err();
            let expected = Relayed { a_to_b: 0, b_to_a: length as u64 };
            assert!(
                matches!(&error, RelayError::Write { direction: Direction::AToB, relayed, .. } if *relayed == expected),
                "{error:?}"
            );
        }
    });
}

#[test]
fn what_a_buffered_writer_holds_leaves_when_nothing_more_comes() {
    paused(async {
        let (mut a, near_a) = duplex(100);
        let (mut b, near_b) = duplex(100);
        tokio::spawn(relay(near_a, tokio::io::BufStream::new(near_b), RelayOptions::default()));
        a.write_all(b"question").await.unwrap();
        let mut received = [0; 8];
        b.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"question");
    });
}

#[test]
fn silent_direction_is_given_up_some_time_after_the_other_failed() {
    paused(async {
        let broken =
            FaultStream::new(duplex(1).0, &Faults { ending: Ending::ResetAfter(0), ..Faults::default() });
        let (_silent, answer) = duplex(100);
        let start = Instant::now();
        let options = RelayOptions { linger: Duration::from_secs(7) };
        let error = relay(tokio::io::join(broken, tokio::io::sink()), answer, options).await.unwrap_err();
        assert!(matches!(error, RelayError::Read { direction: Direction::AToB, .. }), "{error:?}");
        assert_eq!(start.elapsed().as_secs(), 7);
    });
}

#[test]
fn idle_pump_holds_no_buffer_and_a_stuck_one_holds_one_read() {
    paused(async {
        let (mut a, mut near_a) = duplex(100_000);
        let (mut b, mut near_b) = duplex(1000);
        let mut pump = Pump::new(&RelayOptions::default());
        let mut turn = async |pump: &mut Pump| {
            std::future::poll_fn(|cx| Poll::Ready(pump.poll(cx, &mut near_a, &mut near_b).is_pending())).await
        };
        a.write_all(&[1; 100_000]).await.unwrap();
        assert!(turn(&mut pump).await);
        assert_eq!(pump.a_to_b.held.capacity(), SCRATCH_BYTES - 1000);
        let drained = async {
            b.read_exact(&mut vec![0; 100_000]).await.unwrap();
        };
        let pumping = async {
            while pump.relayed().a_to_b < 100_000 {
                turn(&mut pump).await;
                tokio::task::yield_now().await;
            }
            turn(&mut pump).await;
        };
        tokio::join!(drained, pumping);
        assert_eq!(pump.a_to_b.held.capacity() + pump.b_to_a.held.capacity(), 0);
    });
}
