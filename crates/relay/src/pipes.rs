//! A pool of pipes to splice through.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

/// How many empty pipes a thread keeps.
const SPARE_PIPES: usize = 64;

/// What one splice asks for: what a pipe of Linux holds unless told otherwise.
pub(crate) const PIPE_BYTES: usize = 64 * 1024;

/// A pipe, empty unless its owner has put something in.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) output: OwnedFd,
    pub(crate) input: OwnedFd,
}

#[derive(Debug, Default)]
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe, unless the system has none to give.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        Some(Pipe { output, input })
    }

    /// Takes back a pipe, which must be empty.
    pub(crate) fn give(&mut self, pipe: Pipe) {
        if self.spare.len() < SPARE_PIPES {
            self.spare.push(pipe);
        }
    }

    /// Frees descriptors, because the system is short of them.
    pub(crate) fn clear(&mut self) {
        self.spare.clear();
    }
}
