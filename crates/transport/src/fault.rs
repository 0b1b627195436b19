//! A stream that misbehaves on purpose, the same way each time for the same seed. For tests only.
//!
//! What goes wrong is decided once per completed read or write, separately for the two, so that how often the
//! caller polls changes nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What to do wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Decides everything that follows.
    pub seed: u64,
    /// How many of a hundred writes take only part of what they are given.
    pub partial_write_percent: u8,
    /// How many of a hundred reads return one byte only.
    pub one_byte_read_percent: u8,
    /// How many of a hundred reads and writes wait first.
    pub stall_percent: u8,
    /// The longest such wait.
    pub max_stall: Duration,
    /// How the stream ends.
    pub ending: Ending,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// As the stream inside does.
    #[default]
    Natural,
    /// After so many bytes, read and written together, every call fails with `ConnectionReset`.
    ResetAfter(u64),
    /// After so many bytes the peer is dead: reads give end of file and writes `BrokenPipe`.
    DeathAfter(u64),
}

/// `S`, with [`Faults`].
#[derive(Debug)]
pub struct FaultStream<S> {
    /// Gone when the stream has ended, so that the peer notices.
    inner: Option<S>,
    ending: Ending,
    moved_bytes: u64,
    reading: Gate,
    writing: Gate,
}

impl<S> FaultStream<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, faults: &Faults) -> Self {
        Self {
            inner: Some(inner),
            ending: faults.ending,
            moved_bytes: 0,
            reading: Gate::new(faults, 1),
            writing: Gate::new(faults, 2),
        }
    }

    /// Bytes until the stream ends.
    fn left(&self) -> usize {
        match self.ending {
            Ending::Natural => usize::MAX,
            Ending::ResetAfter(limit) | Ending::DeathAfter(limit) => {
                usize::try_from(limit.saturating_sub(self.moved_bytes)).unwrap_or(usize::MAX)
            }
        }
    }

    fn count(&mut self, bytes: usize) {
        self.moved_bytes += bytes as u64;
        if self.left() == 0 {
            self.inner = None;
        }
    }

    fn ended<T>(&self, dead: io::Result<T>) -> Poll<io::Result<T>> {
        Poll::Ready(match self.ending {
            Ending::ResetAfter(_) => Err(io::ErrorKind::ConnectionReset.into()),
            Ending::Natural | Ending::DeathAfter(_) => dead,
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FaultStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = this.left();
        let Some(inner) = this.inner.as_mut().filter(|_| left > 0) else {
            return this.ended(Ok(()));
        };
        let one_byte = ready!(this.reading.poll(cx)).is_some();
        let wanted = if one_byte { 1 } else { left };
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(wanted.min(buf.remaining())));
        ready!(Pin::new(inner).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        this.reading.close();
        this.count(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FaultStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let left = this.left();
        let Some(inner) = this.inner.as_mut().filter(|_| left > 0) else {
            return this.ended(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let cut = ready!(this.writing.poll(cx));
        let part = match (cut, buf.len()) {
            (Some(random), 2..) => 1 + random % (buf.len() - 1),
            (_, all) => all,
        };
        let count = ready!(Pin::new(inner).poll_write(cx, &buf[..part.min(left)]))?;
        this.writing.close();
        this.count(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner.as_mut() {
            Some(inner) => Pin::new(inner).poll_flush(cx),
            None => self.ended(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner.as_mut() {
            Some(inner) => Pin::new(inner).poll_shutdown(cx),
            None => self.ended(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// Decides about one kind of call.
#[derive(Debug)]
struct Gate {
    random: Random,
    cut_percent: u8,
    stall_percent: u8,
    max_stall: Duration,
    /// The decision on the call under way.
    plan: Option<Plan>,
}

#[derive(Debug)]
struct Plan {
    stall: Option<Pin<Box<Sleep>>>,
    cut: Option<usize>,
}

impl Gate {
    fn new(faults: &Faults, lane: u64) -> Self {
        Self {
            random: Random(faults.seed ^ lane.rotate_right(8)),
            cut_percent: if lane == 1 { faults.one_byte_read_percent } else { faults.partial_write_percent },
            stall_percent: faults.stall_percent,
            max_stall: faults.max_stall,
            plan: None,
        }
    }

    /// Ready after the stall, with a random number if the call is to be cut short.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let plan = match &mut self.plan {
            Some(plan) => plan,
            none => {
                let stalls = self.random.percent(self.stall_percent);
                let part = self.random.below(1000);
                let stall = stalls.then(|| Box::pin(tokio::time::sleep(self.max_stall / 1000 * part)));
                let cut = self.random.percent(self.cut_percent).then(|| self.random.below(u32::MAX) as usize);
                none.insert(Plan { stall, cut })
            }
        };
        if let Some(stall) = &mut plan.stall {
            ready!(stall.as_mut().poll(cx));
            plan.stall = None;
        }
        Poll::Ready(plan.cut)
    }

    /// The call is complete; the next one gets its own decision.
    fn close(&mut self) {
        self.plan = None;
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).expect("a remainder is below its divisor")
    }

    fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u32::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn faults(seed: u64, ending: Ending) -> Faults {
        Faults {
            seed,
            partial_write_percent: 60,
            one_byte_read_percent: 60,
            stall_percent: 20,
            max_stall: Duration::from_millis(50),
            ending,
        }
    }

    /// The sizes of each read and the time it came at.
    async fn trace(seed: u64) -> Vec<(usize, Duration)> {
        let (near, mut far) = tokio::io::duplex(256);
        let start = tokio::time::Instant::now();
        let feeder = tokio::spawn(async move { far.write_all(&[7; 4000]).await });
        let mut stream = FaultStream::new(near, &faults(seed, Ending::Natural));
        let mut seen = Vec::new();
        let mut buf = [0; 100];
        while let count @ 1.. = stream.read(&mut buf).await.unwrap() {
            seen.push((count, start.elapsed()));
        }
        feeder.await.unwrap().unwrap();
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn same_seed_misbehaves_the_same_way() {
        let first = trace(1).await;
        assert_eq!(first, trace(1).await);
        assert_ne!(first, trace(2).await);
        assert!(first.iter().any(|(count, _)| *count == 1) && first.iter().any(|(count, _)| *count > 1));
    }

    #[tokio::test(start_paused = true)]
    async fn reset_comes_after_exactly_so_many_bytes_and_stays() {
        let (near, mut far) = tokio::io::duplex(8192);
        let mut stream = FaultStream::new(near, &faults(3, Ending::ResetAfter(1000)));
        far.write_all(&[1; 600]).await.unwrap();
        stream.read_exact(&mut [0; 600]).await.unwrap();
        let error = stream.write_all(&[2; 401]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [2; 400]);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_peer_reads_as_end_and_takes_nothing() {
        let (near, mut far) = tokio::io::duplex(8192);
        let mut stream = FaultStream::new(near, &faults(4, Ending::DeathAfter(10)));
        far.write_all(&[1; 20]).await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [1; 10]);
        assert_eq!(stream.write(&[1]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(far.write(&[1]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
