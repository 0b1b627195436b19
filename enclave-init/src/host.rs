//! The two connections that init makes to the host: the heartbeat and the event stream.
//!
//! The host is not trusted to answer, to read or to stay: whatever it does, the enclave goes on.

use std::{io, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use transport::{Addr, Stream};

use crate::{HEARTBEAT_BYTE, journal::Journal, outbox::Batch};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the host has to answer the heartbeat, all attempts together.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a connection failed or ended; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause before the next attempt.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Bytes of events on their way at a time. Small enough to be little, large enough that lines are not sent one by one.
const BATCH_BYTES: usize = 16 * 1024;

/// Tells the host that the enclave has booted, and waits for its answer.
///
/// Boot does not wait for this. AWS's init gives up on a host that does not answer; here the measured services run all
/// the same, since a host that wants no enclave can end it, and one that only lost a byte should not.
pub(crate) async fn heartbeat(addr: Addr, journal: Rc<Journal>) {
    let attempts = async {
        let mut pause = FIRST_PAUSE;
        while let Err(_retry) = beat_once(&addr).await {
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    };
    if timeout(HEARTBEAT_TIMEOUT, attempts).await.is_err() {
        let seconds = HEARTBEAT_TIMEOUT.as_secs();
        journal.warn(format!(
            "{addr}: the host did not answer the heartbeat within {seconds} s; going on without"
        ));
    }
}

async fn beat_once(addr: &Addr) -> io::Result<()> {
    let mut stream = Stream::connect(addr, CONNECT_TIMEOUT).await.map_err(io::Error::other)?;
    stream.write_all(&[HEARTBEAT_BYTE]).await?;
    stream.flush().await?;
    match stream.read_u8().await? {
        HEARTBEAT_BYTE => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends events to the host, over as many connections as it takes, until the journal is closed and empty.
pub(crate) async fn stream_events(addr: Addr, journal: Rc<Journal>) {
    let mut batch = Batch::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        if let Ok(stream) = Stream::connect(&addr, CONNECT_TIMEOUT).await {
            match send(stream, &journal, &mut batch).await {
                Ok(()) => return,
                Err(_reconnect) => batch.restart(),
            }
        }
        if began.elapsed() > MAX_PAUSE {
            pause = FIRST_PAUSE;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn send(mut stream: Stream, journal: &Journal, batch: &mut Batch) -> io::Result<()> {
    loop {
        while !batch.pending().is_empty() {
            match stream.write(batch.pending()).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => batch.advance(written),
            }
        }
        stream.flush().await?;
        *batch = journal.take(BATCH_BYTES);
        if !batch.pending().is_empty() {
            continue;
        }
        if journal.is_closed() {
            // Wait for the host to close: what is in flight when the machine ends is lost.
            stream.shutdown().await?;
            let _ = stream.read(&mut [0]).await;
            return Ok(());
        }
        tokio::select! {
            () = journal.changed() => {}
            broken = peer_ends(&mut stream) => return Err(broken),
        }
    }
}

/// Waits until the host closes. It has nothing to say on this connection; if it does, that ends it too.
async fn peer_ends(stream: &mut Stream) -> io::Error {
    match stream.read(&mut [0]).await {
        Ok(0) => io::ErrorKind::UnexpectedEof.into(),
        Ok(_) => io::ErrorKind::InvalidData.into(),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, Event, Exit, Level, Line, LogStream, Record};
    use tokio::{io::AsyncBufReadExt, task::LocalSet};
    use transport::Listener;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn next_record(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Record> {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).await.unwrap();
        (!line.is_empty()).then(|| Record::from_line(&line).unwrap())
    }

    async fn listen() -> (tempfile::TempDir, Addr, Listener) {
        let directory = tempfile::tempdir().unwrap();
        let addr = Addr::Unix(directory.path().join("vsock_9100"));
        let listener = Listener::bind(&addr).await.unwrap();
        (directory, addr, listener)
    }

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async { timeout(LIMIT, test).await.unwrap() });
    }

    #[test]
    fn a_host_that_comes_back_gets_the_rest_and_the_end() {
        local(async {
            let (_directory, addr, listener) = listen().await;
            let journal = Rc::new(Journal::new());
            journal.info("one");
            let sender = tokio::task::spawn_local(stream_events(addr, journal.clone()));
            let first = listener.accept().await.unwrap().0;
            let mut reader = tokio::io::BufReader::new(first);
            assert_eq!(next_record(&mut reader).await.unwrap().seq, 1);
            drop(reader);
            let second = listener.accept().await.unwrap().0;
            journal.info("two");
            journal.close(Exit { code: 7, cause: Cause::MainService });
            let mut reader = tokio::io::BufReader::new(second);
            let two = next_record(&mut reader).await.unwrap();
            assert_eq!((two.seq, two.event), (2, Event::Message { level: Level::Info, text: "two".into() }));
            let exit = next_record(&mut reader).await.unwrap();
            assert_eq!(exit.event, Event::Exit(Exit { code: 7, cause: Cause::MainService }));
            assert_eq!(next_record(&mut reader).await, None);
            drop(reader);
            sender.await.unwrap();
        });
    }

    /// A host that stopped reading once froze an init that wrote to it while holding a lock.
    #[test]
    fn a_host_that_does_not_read_costs_log_lines_and_nothing_else() {
        local(async {
            let (_directory, addr, listener) = listen().await;
            let journal = Rc::new(Journal::new());
            let sender = tokio::task::spawn_local(stream_events(addr, journal.clone()));
            let stream = listener.accept().await.unwrap().0;
            let line = Line { bytes: vec![b'x'; 1000], continues: false };
            for _ in 0..5000 {
                let line = line.clone();
                journal.record(Event::Log { service: "a".into(), stream: LogStream::Stdout, line });
                tokio::task::yield_now().await;
            }
            journal.close(Exit { code: 0, cause: Cause::Shutdown });
            let mut reader = tokio::io::BufReader::new(stream);
            let (mut accounted, mut dropped, mut last) = (0, 0, None);
            while let Some(record) = next_record(&mut reader).await {
                accounted += if let Event::Dropped { count } = record.event { count } else { 1 };
                dropped += u64::from(matches!(record.event, Event::Dropped { .. }));
                last = Some(record.event);
            }
            assert_eq!(
                (accounted, last),
                (5001, Some(Event::Exit(Exit { code: 0, cause: Cause::Shutdown })))
            );
            assert_eq!(dropped, 1);
            drop(reader);
            sender.await.unwrap();
        });
    }

    #[test]
    fn the_heartbeat_is_answered_by_the_same_byte() {
        local(async {
            let (_directory, addr, listener) = listen().await;
            let journal = Rc::new(Journal::new());
            let beat = tokio::task::spawn_local(heartbeat(addr, journal.clone()));
            // A wrong answer is not taken, the next attempt is.
            for answer in [0xB6, HEARTBEAT_BYTE] {
                let mut stream = listener.accept().await.unwrap().0;
                assert_eq!(stream.read_u8().await.unwrap(), HEARTBEAT_BYTE);
                stream.write_all(&[answer]).await.unwrap();
            }
            beat.await.unwrap();
            assert!(journal.take(usize::MAX).pending().is_empty());
        });
    }

    #[test]
    fn a_host_that_does_not_answer_the_heartbeat_is_given_up() {
        local(async {
            let (_directory, addr, listener) = listen().await;
            let journal = Rc::new(Journal::new());
            let beat = tokio::task::spawn_local(heartbeat(addr, journal.clone()));
            let _silent = listener.accept().await.unwrap();
            tokio::time::pause();
            beat.await.unwrap();
            let text = String::from_utf8(journal.take(usize::MAX).pending().to_vec()).unwrap();
            assert!(text.contains("did not answer the heartbeat within 10 s"), "{text}");
        });
    }
}
