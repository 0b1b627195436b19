//! Reads what a service writes, line by line, for as long as anybody holds the writing end.

use std::{cell::RefCell, io, os::fd::OwnedFd, rc::Rc};

use tokio::net::unix::pipe::Receiver;

use crate::{
    event::{Event, Line, LogStream},
    journal::Journal,
    lines::LineSplitter,
};

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

/// Bytes read before other tasks have their turn.
const TURN_BYTES: usize = 2 * READ_BYTES;

/// The most that a pipe holds for a service without privilege (`pipe(7)`), so all that an ended one can have left.
const PIPE_BYTES: usize = 1024 * 1024;

/// One output of one run of a service.
#[derive(Debug)]
pub(crate) struct Capture {
    pipe: Receiver,
    service: String,
    stream: LogStream,
    lines: RefCell<LineSplitter>,
    journal: Rc<Journal>,
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// There may be more.
    Limit,
    /// The pipe is empty.
    Empty,
    /// Nobody can write any more.
    End,
}

impl Capture {
    /// Follows the output in a task of its own, whatever becomes of the returned handle.
    pub(crate) fn start(
        pipe: OwnedFd,
        service: &str,
        stream: LogStream,
        journal: &Rc<Journal>,
    ) -> io::Result<Rc<Self>> {
        let capture = Rc::new(Self {
            pipe: Receiver::from_owned_fd(pipe)?,
            service: service.to_owned(),
            stream,
            lines: RefCell::default(),
            journal: journal.clone(),
        });
        tokio::task::spawn_local(capture.clone().follow());
        Ok(capture)
    }

    /// Takes what an ended process has left in the pipe, so that its last line comes before the news of its end.
    pub(crate) fn drain(&self) {
        // Asks the kernel: the runtime may not have noticed yet that there is something.
        self.read(PIPE_BYTES, |buffer| Ok(rustix::io::read(&self.pipe, buffer)?));
        self.finish();
    }

    async fn follow(self: Rc<Self>) {
        while self.pipe.readable().await.is_ok() {
            match self.read(TURN_BYTES, |buffer| self.pipe.try_read(buffer)) {
                Stop::Limit => tokio::task::yield_now().await,
                Stop::Empty => {}
                Stop::End => return self.finish(),
            }
        }
    }

    fn read(&self, max_bytes: usize, read: impl Fn(&mut [u8]) -> io::Result<usize>) -> Stop {
        let mut buffer = [0; READ_BYTES];
        let mut left = max_bytes;
        while left > 0 {
            match read(&mut buffer) {
                Ok(0) => return Stop::End,
                Ok(length) => {
                    self.lines.borrow_mut().push(&buffer[..length], |line| self.emit(line));
                    left = left.saturating_sub(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Stop::Empty,
                Err(_) => return Stop::End,
            }
        }
        Stop::Limit
    }

    fn finish(&self) {
        self.lines.borrow_mut().finish(|line| self.emit(line));
    }

    fn emit(&self, line: Line) {
        if let Some(record) = self.egress_record(&line) {
            return self.journal.record(Event::Egress(record));
        }
        self.journal.record(Event::Log { service: self.service.clone(), stream: self.stream, line });
    }

    /// Daemons of the framework log to standard error. What one writes to standard output is a record of a connection;
    /// services, whose names have no `@`, cannot make one.
    fn egress_record(&self, line: &Line) -> Option<Box<egress::Record>> {
        if !self.service.starts_with('@') || self.stream != LogStream::Stdout || line.continues {
            return None;
        }
        egress::Record::from_json(std::str::from_utf8(&line.bytes).ok()?).ok().map(Box::new)
    }
}
