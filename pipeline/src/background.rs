//! Runs that nobody waits for: their output is kept within limits, their status until others take their place.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    descriptor::Descriptor,
    frame::Kind,
    process::{Process, Program},
    relay::PIPE_BYTES,
    reply::{Code, Exit, Refusal},
    request::RunId,
    serve::{Output, ServeError},
};

/// Output read at a time, in bytes.
const OUTPUT_BYTES: usize = 16 << 10;

/// Signals that wait for a run, at most.
const PENDING_SIGNALS: usize = 16;

/// All runs that nobody waits for.
#[derive(Debug)]
pub(crate) struct Background {
    runs: Mutex<BTreeMap<RunId, Arc<Detached>>>,
    max_runs: usize,
    kept_bytes: usize,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Detached {
    operator: String,
    command: String,
    signals: mpsc::Sender<u8>,
    kept: Mutex<Kept>,
    /// The number of the next piece of output, and how the run ended once it has.
    progress: watch::Sender<(u64, Option<Exit>)>,
}

/// The end of a run's output.
#[derive(Debug, Default)]
struct Kept {
    pieces: VecDeque<(Kind, Bytes)>,
    bytes: usize,
    /// Pieces that are gone.
    dropped: u64,
}

/// What `status` says of a run, one JSON object a line.
#[derive(Debug, Serialize)]
struct Status<'a> {
    /// The run's number.
    id: u64,
    /// `running` or `ended`.
    state: &'static str,
    /// Who started it.
    operator: &'a str,
    /// What it runs.
    command: &'a str,
    /// Exit status, 128 + n after signal n; absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    /// It took longer than it was allowed.
    timed_out: bool,
}

impl Background {
    /// Keeps at most `max_runs` runs and `kept_bytes` of each one's output.
    pub(crate) fn new(max_runs: usize, kept_bytes: usize) -> Self {
        Self { runs: Mutex::default(), max_runs, kept_bytes }
    }

    /// Makes room for one more run, if need be by forgetting the oldest that has ended.
    pub(crate) fn reserve(&self) -> Result<(), Refusal> {
        let mut runs = lock(&self.runs);
        if runs.len() >= self.max_runs {
            let ended = runs.iter().find(|(_, run)| run.progress.borrow().1.is_some()).map(|(id, _)| *id);
            let id =
                ended.ok_or_else(|| Refusal::new(Code::Busy, "as many runs as are allowed go on already"))?;
            runs.remove(&id);
        }
        Ok(())
    }

    /// Takes a program over, and calls `finished` when it has ended.
    pub(crate) fn adopt(
        &self,
        id: RunId,
        operator: &str,
        command: String,
        program: Program,
        limit: Option<Duration>,
        finished: impl FnOnce(Exit) + Send + 'static,
    ) {
        let (signals, pending) = mpsc::channel(PENDING_SIGNALS);
        let run = Arc::new(Detached {
            operator: operator.to_owned(),
            command,
            signals,
            kept: Mutex::default(),
            progress: watch::Sender::new((0, None)),
        });
        lock(&self.runs).insert(id, run.clone());
        let kept_bytes = self.kept_bytes;
        tokio::spawn(async move {
            let exit = follow(program, &run, pending, limit, kept_bytes).await;
            run.progress.send_modify(|progress| progress.1 = Some(exit));
            finished(exit);
        });
    }

    /// The status of one run or of all, one JSON object a line.
    pub(crate) fn status(&self, id: Option<RunId>) -> Result<Vec<u8>, Refusal> {
        let runs = lock(&self.runs);
        let mut lines = Vec::new();
        let wanted = runs.iter().filter(|(found, _)| id.is_none_or(|id| id == **found));
        for (found, run) in wanted {
            let exit = run.progress.borrow().1;
            let status = Status {
                id: found.0,
                state: if exit.is_some() { "ended" } else { "running" },
                operator: &run.operator,
                command: &run.command,
                status: exit.map(|exit| exit.status),
                signal: exit.and_then(|exit| exit.signal),
                timed_out: exit.is_some_and(|exit| exit.timed_out),
            };
            serde_json::to_writer(&mut lines, &status).expect("texts and numbers always serialise");
            lines.push(b'\n');
        }
        if let (Some(id), true) = (id, lines.is_empty()) {
            return Err(no_such(id));
        }
        Ok(lines)
    }

    /// Signals a run.
    pub(crate) fn kill(&self, id: RunId, signal: u8) -> Result<(), Refusal> {
        let run = self.find(id)?;
        let ended = run.progress.borrow().1.is_some();
        if ended || run.signals.try_send(signal).is_err() {
            return Err(Refusal::new(Code::NotFound, format!("run {} has ended", id.0)));
        }
        Ok(())
    }

    pub(crate) fn find(&self, id: RunId) -> Result<Arc<Detached>, Refusal> {
        lock(&self.runs).get(&id).cloned().ok_or_else(|| no_such(id))
    }

    /// Sends what is kept of a run's output, and with `follow` what comes yet. Returns how the run ended, if it has.
    ///
    /// # Errors
    /// [`Code::NotFound`], and whatever the connection says.
    pub(crate) async fn logs(
        &self,
        id: RunId,
        follow: bool,
        output: &mut Output,
    ) -> Result<Exit, ServeError> {
        let run = self.find(id)?;
        let mut progress = run.progress.subscribe();
        let mut next = 0;
        loop {
            let (end, exit) = *progress.borrow_and_update();
            while next < end {
                let Some((number, kind, piece)) = run.piece(next) else { break };
                next = number.saturating_add(1);
                output.send(kind, &piece).await?;
            }
            output.flush().await?;
            match exit {
                Some(exit) => return Ok(if follow { exit } else { Exit::default() }),
                None if !follow => return Ok(Exit::default()),
                // Ends only together with the run, which was looked at just now.
                None => drop(progress.changed().await),
            }
        }
    }
}

fn no_such(id: RunId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no run {}, or it was forgotten", id.0))
}

impl Detached {
    fn keep(&self, kind: Kind, bytes: &[u8], max_bytes: usize) {
        let mut kept = lock(&self.kept);
        kept.bytes = kept.bytes.saturating_add(bytes.len());
        kept.pieces.push_back((kind, Bytes::copy_from_slice(bytes)));
        while kept.bytes > max_bytes {
            let Some((_, piece)) = kept.pieces.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(piece.len());
            kept.dropped = kept.dropped.saturating_add(1);
        }
        drop(kept);
        self.progress.send_modify(|progress| progress.0 = progress.0.saturating_add(1));
    }

    /// The piece with that number, or the oldest that is left after it.
    fn piece(&self, number: u64) -> Option<(u64, Kind, Bytes)> {
        let kept = lock(&self.kept);
        let at = number.saturating_sub(kept.dropped);
        let (kind, bytes) = kept.pieces.get(usize::try_from(at).ok()?)?;
        Some((number.max(kept.dropped), *kind, bytes.clone()))
    }
}

/// Keeps a program's output until it has ended.
async fn follow(
    program: Program,
    run: &Detached,
    mut signals: mpsc::Receiver<u8>,
    limit: Option<Duration>,
    kept_bytes: usize,
) -> Exit {
    let Program { mut process, stdin, stdout, stderr, .. } = program;
    // Nobody will ever write to it.
    drop(stdin);
    let overdue = async {
        match limit {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(overdue);
    let mut timed_out = false;
    let mut open = [Some(stdout), stderr];
    loop {
        let [stdout, stderr] = &open;
        tokio::select! {
            ready = readable(stdout.as_deref()) => if ready.is_err() { open[0] = None },
            ready = readable(stderr.as_deref()) => if ready.is_err() { open[1] = None },
            Some(signal) = signals.recv() => process.signal(signal),
            () = &mut overdue, if !timed_out => {
                timed_out = true;
                process.kill_session();
            }
            _ = process.ended() => break,
        }
        for (stream, kind) in open.iter_mut().zip([Kind::Stdout, Kind::Stderr]) {
            let mut buffer = [0; OUTPUT_BYTES];
            match stream.as_deref().map(|stream| stream.try_read(&mut buffer)) {
                Some(Ok(Some(count))) if count > 0 => run.keep(kind, &buffer[..count], kept_bytes),
                Some(Ok(None)) | None => {}
                _ => *stream = None,
            }
        }
    }
    process.kill_group();
    for (stream, kind) in open.iter().zip([Kind::Stdout, Kind::Stderr]) {
        keep_rest(run, stream.as_deref(), kind, kept_bytes);
    }
    let exit = ended(&mut process).await;
    Exit { timed_out, ..exit }
}

async fn readable(stream: Option<&Descriptor>) -> std::io::Result<()> {
    match stream {
        Some(stream) => stream.readable().await,
        None => std::future::pending().await,
    }
}

fn keep_rest(run: &Detached, stream: Option<&Descriptor>, kind: Kind, kept_bytes: usize) {
    let Some(stream) = stream else { return };
    let (mut buffer, mut left) = ([0; OUTPUT_BYTES], PIPE_BYTES);
    while left > 0 {
        match stream.read_now(&mut buffer) {
            Ok(Some(count)) if count > 0 => {
                run.keep(kind, &buffer[..count], kept_bytes);
                left = left.saturating_sub(count);
            }
            _ => return,
        }
    }
}

async fn ended(process: &mut Process) -> Exit {
    // The process has ended, so there is nothing to wait for; without a status it is as if killed.
    let lost = Exit { status: 137, signal: Some(9), timed_out: false };
    timeout(Duration::from_secs(10), process.reap()).await.map_or(lost, |exit| exit.unwrap_or(lost))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept is consistent at every step; a panic elsewhere is no reason to lose it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detached() -> Detached {
        Detached {
            operator: "alice".into(),
            command: "x".into(),
            signals: mpsc::channel(1).0,
            kept: Mutex::default(),
            progress: watch::Sender::new((0, None)),
        }
    }

    #[test]
    fn the_end_of_the_output_is_kept_and_the_gap_is_passed_over() {
        let run = detached();
        for i in 0..10_u8 {
            run.keep(Kind::Stdout, &[i; 100], 350);
        }
        assert_eq!(run.progress.borrow().0, 10);
        let (number, _, piece) = run.piece(0).unwrap();
        assert_eq!((number, piece[0]), (7, 7));
        assert_eq!(run.piece(9).unwrap().2[0], 9);
        assert!(run.piece(10).is_none());
        assert!(lock(&run.kept).bytes <= 350);
    }

    #[test]
    fn only_runs_that_have_ended_make_room() {
        let background = Background::new(2, 100);
        for id in 1..=2 {
            background.reserve().unwrap();
            lock(&background.runs).insert(RunId(id), Arc::new(detached()));
        }
        assert_eq!(background.reserve().unwrap_err().code, Code::Busy);
        let exit = Exit { status: 3, ..Exit::default() };
        background.find(RunId(2)).unwrap().progress.send_modify(|progress| progress.1 = Some(exit));
        let status = String::from_utf8(background.status(None).unwrap()).unwrap();
        assert_eq!(status.lines().count(), 2);
        assert!(status.lines().nth(1).unwrap().contains("\"state\":\"ended\""), "{status}");
        background.reserve().unwrap();
        assert_eq!(background.status(Some(RunId(2))).unwrap_err().code, Code::NotFound);
        background.status(Some(RunId(1))).unwrap();
    }
}
