//! Keeps the end of what a health check writes.

use std::{cell::RefCell, collections::VecDeque, io, os::fd::OwnedFd, rc::Rc};

use tokio::net::unix::pipe::Receiver;

/// The most that is kept, in bytes.
const MAX_BYTES: usize = 1024;

/// Bytes read at a time.
const READ_BYTES: usize = 4096;

/// The most that a pipe holds, so all that an ended check can have left.
const PIPE_BYTES: usize = 1024 * 1024;

/// The last bytes of both outputs of one check.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    kept: RefCell<VecDeque<u8>>,
    pipes: RefCell<Vec<Rc<Receiver>>>,
}

impl Tail {
    /// Reads both outputs in tasks of their own until they are closed.
    pub(crate) fn follow(pipes: [OwnedFd; 2]) -> io::Result<Rc<Self>> {
        let tail = Rc::new(Self::default());
        for pipe in pipes {
            let pipe = Rc::new(Receiver::from_owned_fd(pipe)?);
            tail.pipes.borrow_mut().push(pipe.clone());
            tokio::task::spawn_local(follow(tail.clone(), pipe));
        }
        Ok(tail)
    }

    /// The text, once the check has ended; what is not UTF-8 is replaced.
    pub(crate) fn text(&self) -> String {
        for pipe in self.pipes.take() {
            let mut buffer = [0; READ_BYTES];
            let mut left = PIPE_BYTES;
            // Asks the kernel: the runtime may not have noticed yet that there is something.
            while let Ok(length @ 1..) = rustix::io::read(&*pipe, &mut buffer) {
                self.push(&buffer[..length]);
                left = left.saturating_sub(length);
                if left == 0 {
                    break;
                }
            }
        }
        let kept: Vec<_> = self.kept.borrow().iter().copied().collect();
        String::from_utf8_lossy(&kept).trim().to_owned()
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.borrow_mut();
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(MAX_BYTES);
        kept.drain(..surplus);
    }
}

async fn follow(tail: Rc<Tail>, pipe: Rc<Receiver>) {
    let mut buffer = [0; READ_BYTES];
    while pipe.readable().await.is_ok() {
        match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => tail.push(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        // A check that writes without end does not keep init from its other work.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_end_and_no_more() {
        let tail = Tail::default();
        tail.push(b"gone");
        tail.push(&[b'x'; MAX_BYTES]);
        tail.push(b" end\xff\n");
        let text = tail.text();
        assert!(
            text.starts_with('x') && text.ends_with("x end\u{fffd}") && text.len() <= MAX_BYTES + 2,
            "{text}"
        );
    }
}
