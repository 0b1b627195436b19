use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Notes the size of each write that reaches it.
#[derive(Debug)]
struct Recorder {
    inner: DuplexStream,
    sizes: Arc<Mutex<Vec<usize>>>,
    dropped: Arc<AtomicBool>,
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        self.sizes.lock().unwrap().push(buf.len());
        Poll::Ready(outcome)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

struct Setup {
    near: Coalesced<Recorder>,
    far: DuplexStream,
    sizes: Arc<Mutex<Vec<usize>>>,
    dropped: Arc<AtomicBool>,
}

/// A coalesced stream over a connection that holds `capacity` bytes each way.
fn setup(capacity: usize) -> Setup {
    let (inner, far) = duplex(capacity);
    let sizes = Arc::default();
    let dropped = Arc::default();
    let recorder = Recorder { inner, sizes: Arc::clone(&sizes), dropped: Arc::clone(&dropped) };
    Setup { near: Coalesced::new(recorder), far, sizes, dropped }
}

fn paused<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // The clock leaps to the next deadline. A megabyte, byte by byte to a reader that stalls at each tenth, takes hours of it.
    let stuck = Duration::from_secs(30 * 86_400);
    runtime.block_on(async { tokio::time::timeout(stuck, future).await.expect("stuck") })
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// Kernels since August 2025 send large vsock writes as non-linear buffers, which the Nitro hypervisor was seen to
/// reassemble wrongly: silent corruption above about 32 KiB per write.
#[test]
fn no_write_below_is_over_31_kib() {
    paused(async {
        let Setup { mut near, mut far, sizes, .. } = setup(1 << 20);
        let data = bytes(700_000);
        near.write_all(&data).await.unwrap();
        near.shutdown().await.unwrap();
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert!(received == data);
        let sizes = sizes.lock().unwrap();
        assert_eq!(sizes.iter().max(), Some(&MAX_WRITE_BYTES));
        assert_eq!(MAX_WRITE_BYTES, 31 * 1024);
    });
}

/// Kernels from 6.12.92 reset a vsock connection whose reader falls behind by some hundreds of small packets.
#[test]
fn burst_of_small_writes_leaves_as_one_packet_without_a_flush() {
    paused(async {
        let Setup { mut near, mut far, sizes, .. } = setup(1 << 20);
        let data = bytes(20_000);
        for chunk in data.chunks(200) {
            near.write_all(chunk).await.unwrap();
        }
        let mut received = vec![0; data.len()];
        far.read_exact(&mut received).await.unwrap();
        assert!(received == data);
        assert_eq!(*sizes.lock().unwrap(), [20_000]);
    });
}

/// The same fault met by a writer that flushes each line and whose peer never answers: the flush must not make a
/// packet of each write for ever.
#[test]
fn flushed_small_writes_are_spaced_when_nobody_answers() {
    paused(async {
        let Setup { mut near, far: _far, sizes, .. } = setup(1 << 20);
        let start = Instant::now();
        for _ in 0..1000 {
            near.write_all(&[1; 200]).await.unwrap();
            near.flush().await.unwrap();
        }
        let intervals = start.elapsed().as_nanos() / SMALL_PACKET_INTERVAL.as_nanos();
        let packets = sizes.lock().unwrap().len();
        assert!(
            packets as u128 <= u128::from(SMALL_PACKET_BURST) + intervals + 1,
            "{packets} in {intervals} intervals"
        );
    });
}

#[test]
fn small_writes_join_while_the_allowance_is_used_up() {
    paused(async {
        let Setup { mut near, mut far, sizes, .. } = setup(1 << 20);
        for _ in 0..2000 {
            near.write_all(&[1; 200]).await.unwrap();
            tokio::task::yield_now().await;
        }
        far.read_exact(&mut vec![0; 400_000]).await.unwrap();
        let packets = sizes.lock().unwrap().len();
        assert!(packets <= SMALL_PACKET_BURST as usize + 400_000 / SMALL_WRITE_BYTES, "{packets} packets");
    });
}

#[test]
fn large_write_takes_a_waiting_small_one_along_at_once() {
    paused(async {
        let Setup { mut near, mut far, .. } = setup(1 << 20);
        for _ in 0..SMALL_PACKET_BURST {
            near.write_all(&[1; 200]).await.unwrap();
            near.flush().await.unwrap();
        }
        let start = Instant::now();
        near.write_all(&[1; 200]).await.unwrap();
        tokio::time::sleep(SMALL_PACKET_INTERVAL / 2).await;
        near.write_all(&[2; 20_000]).await.unwrap();
        far.read_exact(&mut vec![0; 200 * (SMALL_PACKET_BURST as usize + 1) + 20_000]).await.unwrap();
        assert!(start.elapsed() < SMALL_PACKET_INTERVAL, "{:?}", start.elapsed());
    });
}

#[test]
fn requests_and_answers_never_wait() {
    paused(async {
        let Setup { mut near, mut far, .. } = setup(4096);
        let start = Instant::now();
        let server = tokio::spawn(async move {
            let mut request = [0; 100];
            while far.read_exact(&mut request).await.is_ok() {
                far.write_all(&request[..50]).await.unwrap();
            }
        });
        for _ in 0..5000 {
            near.write_all(&[7; 100]).await.unwrap();
            near.read_exact(&mut [0; 50]).await.unwrap();
        }
        drop(near);
        server.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    });
}

#[test]
fn reading_goes_on_while_writing_is_stuck() {
    paused(async {
        let Setup { mut near, mut far, .. } = setup(100);
        let stuck = tokio::time::timeout(Duration::from_secs(1), near.write_all(&[1; 200_000])).await;
        assert!(stuck.is_err());
        far.write_all(&[2; 50]).await.unwrap();
        let mut received = [0; 50];
        near.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [2; 50]);
    });
}

#[test]
fn what_was_written_arrives_after_the_stream_is_dropped() {
    paused(async {
        let Setup { mut near, mut far, dropped, .. } = setup(10);
        near.write_all(&[9; 900]).await.unwrap();
        drop(near);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [9; 900]);
        assert!(dropped.load(Ordering::Relaxed));
    });
}

#[test]
fn dropped_stream_is_closed_though_the_peer_never_reads() {
    paused(async {
        let Setup { mut near, far: _far, dropped, .. } = setup(10);
        near.write_all(&[9; 900]).await.unwrap();
        drop(near);
        tokio::time::sleep(LINGER - Duration::from_secs(1)).await;
        assert!(!dropped.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(dropped.load(Ordering::Relaxed));
    });
}

#[test]
fn shutdown_comes_after_the_pending_bytes_and_closes_one_half() {
    paused(async {
        let Setup { mut near, mut far, .. } = setup(10);
        near.write_all(&[9; 900]).await.unwrap();
        let closing = tokio::spawn(async move {
            near.shutdown().await.unwrap();
            near
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [9; 900]);
        let mut near = closing.await.unwrap();
        far.write_all(&[3; 5]).await.unwrap();
        near.read_exact(&mut [0; 5]).await.unwrap();
    });
}

#[test]
fn failure_of_the_sender_is_told_on_the_next_call() {
    paused(async {
        let Setup { mut near, far, .. } = setup(10);
        drop(far);
        near.write_all(&[9; 900]).await.unwrap();
        assert_eq!(near.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn idle_stream_holds_no_buffer() {
    paused(async {
        let Setup { mut near, mut far, .. } = setup(10);
        near.write_all(&[9; 900]).await.unwrap();
        far.read_exact(&mut [0; 900]).await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(near.shared.lock().pending.capacity(), 0);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Small writes while the peer is slow were what got connections reset.
    #[test]
    fn writes_of_every_size_arrive_under_back_pressure(
        sizes in prop::collection::vec(prop_oneof![4 => 1usize..=300, 1 => 1usize..80_000], 1..200),
        capacity in 1usize..5000,
        seed in any::<u64>(),
    ) {
        paused(async {
            let Setup { mut near, far, sizes: written, .. } = setup(capacity);
            let data = bytes(sizes.iter().sum());
            let slow = crate::fault::Faults {
                seed,
                one_byte_read_percent: 10,
                stall_percent: 10,
                max_stall: Duration::from_millis(100),
                ..Default::default()
            };
            let mut far = crate::fault::FaultStream::new(far, &slow);
            let reader = tokio::spawn(async move {
                let mut received = Vec::new();
                far.read_to_end(&mut received).await.map(|_| received)
            });
            let mut rest = &data[..];
            for size in sizes {
                let (chunk, after) = rest.split_at(size);
                near.write_all(chunk).await.unwrap();
                rest = after;
            }
            near.shutdown().await.unwrap();
            let received = reader.await.unwrap().unwrap();
            prop_assert!(received == data);
            prop_assert!(written.lock().unwrap().iter().all(|size| *size <= MAX_WRITE_BYTES));
            Ok(())
        })?;
    }
}

/// The owner and the sending task on different threads, on real sockets: a wake-up lost between them would hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_between_threads() {
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    let data = bytes(2_000_000);
    let send = async |stream: Coalesced<tokio::net::UnixStream>| {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let received = tokio::spawn(async move {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.map(|_| received)
        });
        let mut rest = &data[..];
        for size in (1..).map(|i| if i % 50 == 0 { 70_000 } else { 1 + i * 37 % 300 }) {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            writer.write_all(chunk).await.unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        writer.shutdown().await.unwrap();
        received.await.unwrap().unwrap()
    };
    let both = async { tokio::join!(send(Coalesced::new(a)), send(Coalesced::new(b))) };
    let (at_a, at_b) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("stuck");
    assert!(at_a == data && at_b == data);
}
