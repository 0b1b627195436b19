//! Between a client and its program: input one way, output and status the other, neither waiting for the other.
//!
//! The client may send as much input as its window allows, [`STDIN_WINDOW_BYTES`] at first, and gets more of it as the
//! program reads. So the server can always take the next frame, and a signal is never stuck behind input that nobody
//! reads. Output waits for the client: a program whose client does not read comes to a stop by itself.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use bytes::{Buf, Bytes};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    descriptor::Descriptor,
    frame::{Frame, FrameError, Kind},
    process::{Process, Program},
    reply::{Code, Exit, Refusal},
    request::WindowSize,
    serve::{Done, Input, Output, ServeError},
};

/// How much input a client may send before the server has said that the program took some, in bytes.
pub const STDIN_WINDOW_BYTES: usize = 256 << 10;

/// Output read at a time, in bytes.
const OUTPUT_BYTES: usize = 32 << 10;

/// The most that a pipe holds for a process without privilege (`pipe(7)`), so all that an ended one can have left.
pub(crate) const PIPE_BYTES: usize = 1 << 20;

/// End of input on a terminal: the control character that line editing takes for it.
const END_OF_TRANSMISSION: u8 = 4;

/// Joins client and program until the program has ended and the client has all its output.
///
/// # Errors
/// When the client is gone, silent for longer than `idle`, or does not speak the protocol. Every process of the program's
/// session is killed then.
pub(crate) async fn relay(
    input: &mut Input,
    output: &mut Output,
    program: Program,
    limit: Option<Duration>,
    idle: Duration,
) -> Result<Done, ServeError> {
    let Program { mut process, stdin, stdout, stderr, terminal } = program;
    let window = Window::default();
    let mut timed_out = false;
    let mut inbound = Inbound::new(stdin, terminal, &window);
    let carried = {
        let client = inbound.carry(input, &process, idle);
        let outputs = carry_output(output, [Some(&*stdout), stderr.as_deref()], &process, &window);
        let overdue = async {
            match limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(client, outputs, overdue);
        loop {
            tokio::select! {
                error = &mut client => break Err(error),
                ended = &mut outputs => break ended.map_err(ServeError::from),
                () = &mut overdue, if !timed_out => {
                    timed_out = true;
                    process.kill_session();
                }
            }
        }
    };
    carried?;
    let exit = Exit { timed_out, ..process.reap().await? };
    Ok(inbound.done(exit))
}

/// Input that the program has taken and the client was not told of yet.
#[derive(Debug, Default)]
struct Window {
    taken: AtomicUsize,
    changed: Notify,
}

impl Window {
    fn open(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// As a frame's payload.
    async fn opened(&self) -> [u8; 4] {
        loop {
            self.changed.notified().await;
            let taken = self.taken.swap(0, Ordering::Relaxed);
            if taken > 0 {
                return u32::try_from(taken).unwrap_or(u32::MAX).to_be_bytes();
            }
        }
    }
}

/// What comes from the client.
struct Inbound<'a> {
    /// Closed when the client has no more for it.
    stdin: Option<Arc<Descriptor>>,
    terminal: Option<Arc<Descriptor>>,
    window: &'a Window,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// The client has said that no more will come.
    ended: bool,
    bytes: u64,
    digest: digest::Context,
}

impl<'a> Inbound<'a> {
    fn new(stdin: Arc<Descriptor>, terminal: Option<Arc<Descriptor>>, window: &'a Window) -> Self {
        Self {
            stdin: Some(stdin),
            terminal,
            window,
            queue: VecDeque::new(),
            queued_bytes: 0,
            ended: false,
            bytes: 0,
            digest: digest::Context::new(&digest::SHA256),
        }
    }

    /// Goes on until the client is gone, and says why.
    async fn carry(&mut self, input: &mut Input, process: &Process, idle: Duration) -> ServeError {
        loop {
            if self.ended && self.queue.is_empty() {
                self.stdin = None;
            }
            let next = match (&self.stdin, self.queue.front()) {
                (Some(stdin), Some(bytes)) => {
                    tokio::select! {
                        frame = timeout(idle, input.next()) => Ok(frame),
                        written = stdin.write(bytes) => Err(written),
                    }
                }
                _ => Ok(timeout(idle, input.next()).await),
            };
            let frame = match next {
                Err(written) => {
                    self.written(written);
                    continue;
                }
                Ok(Err(_silent)) => {
                    return Refusal::new(Code::Idle, "the client was silent for too long").into();
                }
                Ok(Ok(Err(error))) => return error.into(),
                Ok(Ok(Ok(None))) => return FrameError::Io(io::ErrorKind::ConnectionAborted.into()).into(),
                Ok(Ok(Ok(Some(frame)))) => frame,
            };
            if let Err(refusal) = self.take(frame, process) {
                return refusal.into();
            }
        }
    }

    fn take(&mut self, Frame { kind, payload }: Frame, process: &Process) -> Result<(), Refusal> {
        let malformed = |what: &str| Err(Refusal::new(Code::Malformed, what));
        match kind {
            Kind::Stdin if self.ended => return malformed("input after its end"),
            Kind::Stdin => {
                self.queued_bytes = self.queued_bytes.saturating_add(payload.len());
                if self.queued_bytes > STDIN_WINDOW_BYTES {
                    return malformed("more input than the window allows");
                }
                self.digest.update(&payload);
                self.bytes = self.bytes.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
                if self.stdin.is_none() {
                    self.discard(payload.len());
                } else if !payload.is_empty() {
                    self.queue.push_back(payload);
                }
            }
            Kind::StdinEnd if !self.ended => {
                self.ended = true;
                if self.terminal.is_some() {
                    self.queue.push_back(Bytes::from_static(&[END_OF_TRANSMISSION]));
                }
            }
            Kind::WindowSize => {
                let Some(size) = WindowSize::from_bytes(&payload) else { return malformed("no window size") };
                if let Some(terminal) = &self.terminal {
                    // Fails only when everybody has left the terminal.
                    let _ = sys::session::resize(terminal.fd(), size.columns, size.rows);
                }
            }
            Kind::Signal => match payload[..] {
                // The client only says that it is still there.
                [0] => {}
                [number @ 1..=64] => process.signal(number),
                _ => return malformed("no signal"),
            },
            _ => return malformed("a frame that has no place while a program runs"),
        }
        Ok(())
    }

    fn written(&mut self, written: io::Result<usize>) {
        match written {
            Ok(count) => {
                if let Some(front) = self.queue.front_mut() {
                    front.advance(count);
                    if front.is_empty() {
                        self.queue.pop_front();
                    }
                }
                self.discard(count);
            }
            // The program does not want any more. What comes yet is taken and dropped, as a shell's pipe would.
            Err(_) => {
                self.stdin = None;
                self.queue.clear();
                self.discard(self.queued_bytes);
            }
        }
    }

    /// So many bytes wait no longer.
    fn discard(&mut self, bytes: usize) {
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
        self.window.open(bytes);
    }

    fn done(self, exit: Exit) -> Done {
        let digest = (self.bytes > 0).then(|| {
            let digest = self.digest.finish();
            digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
        });
        Done { exit, files: 0, bytes: self.bytes, digest }
    }
}

/// Goes on until the program has ended and all that it wrote is sent.
async fn carry_output(
    output: &mut Output,
    [stdout, stderr]: [Option<&Descriptor>; 2],
    process: &Process,
    window: &Window,
) -> io::Result<()> {
    let mut open = [stdout, stderr];
    loop {
        let [stdout, stderr] = open;
        tokio::select! {
            ready = readable(stdout) => ready?,
            ready = readable(stderr) => ready?,
            credit = window.opened() => output.send(Kind::StdinWindow, &credit).await?,
            ended = process.ended() => {
                ended?;
                break;
            }
        }
        for (stream, kind) in open.iter_mut().zip([Kind::Stdout, Kind::Stderr]) {
            if let Some(descriptor) = stream
                && !pass(output, descriptor, kind).await?
            {
                *stream = None;
            }
        }
        output.flush().await?;
    }
    // What the program left behind could hold its outputs for ever.
    process.kill_group();
    let mut held = false;
    for (stream, kind) in open.iter().zip([Kind::Stdout, Kind::Stderr]) {
        held |= drain(output, *stream, kind).await?;
    }
    if held {
        process.kill_session();
    }
    Ok(())
}

async fn readable(stream: Option<&Descriptor>) -> io::Result<()> {
    match stream {
        Some(stream) => stream.readable().await,
        None => std::future::pending().await,
    }
}

/// Sends what is there, up to a limit, if anything is. False at the stream's end.
async fn pass(output: &mut Output, stream: &Descriptor, kind: Kind) -> io::Result<bool> {
    // Only as long as there is something to carry: an idle session has no buffer.
    let mut buffer = vec![0; OUTPUT_BYTES];
    match stream.try_read(&mut buffer)? {
        None => Ok(true),
        Some(0) => Ok(false),
        Some(count) => output.send(kind, &buffer[..count]).await.map(|()| true),
    }
}

/// Sends what an ended program has left in a stream. True if somebody still holds the other end.
async fn drain(output: &mut Output, stream: Option<&Descriptor>, kind: Kind) -> io::Result<bool> {
    let Some(stream) = stream else { return Ok(false) };
    let (mut buffer, mut left) = (vec![0; OUTPUT_BYTES], PIPE_BYTES);
    while left > 0 {
        // Asks the kernel: the runtime may not have noticed yet that there is something.
        match stream.read_now(&mut buffer)? {
            None => return Ok(true),
            Some(0) => return Ok(false),
            Some(count) => {
                output.send(kind, &buffer[..count]).await?;
                left = left.saturating_sub(count);
            }
        }
    }
    Ok(true)
}
