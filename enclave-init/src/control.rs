//! Init's control port, `docs/spec/init-control.md`: the host may ask for a shutdown and for nothing else.
//!
//! Whoever runs the enclave can end it anyway; asking lets the services end in good order. Connections are not
//! trusted: each is one short line, few at a time, for a short time.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use transport::{Addr, Listener, Stream};

use crate::{
    journal::{Journal, chain},
    supervisor::Input,
};

/// Longest command line, in bytes, with its end-of-line.
const MAX_COMMAND_BYTES: usize = 64;

/// Connections served at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 4;

/// How long one connection may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// What a command is answered with when it is none.
const REFUSAL: &[u8] = b"error: the only command is shutdown\n";

/// Serves the control port. Returns only if it cannot be served.
pub(crate) async fn serve(addr: Addr, journal: Rc<Journal>, inputs: mpsc::Sender<Input>) {
    let listener = match Listener::bind(&addr).await {
        Ok(listener) => listener,
        Err(error) => return journal.warn(format!("the host cannot ask for a shutdown: {}", chain(&error))),
    };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let (journal, inputs) = (journal.clone(), inputs.clone());
                tokio::task::spawn_local(async move {
                    let _slot = slot;
                    let _ = timeout(CONNECTION_TIMEOUT, answer(stream, &journal, &inputs)).await;
                });
            }
            Err(error) => return journal.warn(format!("{addr}: cannot accept any more: {error}")),
        }
    }
}

async fn answer(mut stream: Stream, journal: &Journal, inputs: &mpsc::Sender<Input>) -> std::io::Result<()> {
    if read_command(&mut stream).await? != Some(Command::Shutdown) {
        stream.write_all(REFUSAL).await?;
        return stream.flush().await;
    }
    // The answer goes first: once the input is taken, the enclave may be gone.
    let answered = async {
        stream.write_all(b"ok\n").await?;
        stream.flush().await
    };
    let answered = answered.await;
    journal.info("the host asks for a shutdown");
    let _ = inputs.send(Input::Shutdown).await;
    answered
}

/// What the host may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Shutdown,
}

/// Reads one line and no byte after it; `None` is no command.
async fn read_command(stream: &mut Stream) -> std::io::Result<Option<Command>> {
    let mut line = Vec::with_capacity(MAX_COMMAND_BYTES);
    while line.len() < MAX_COMMAND_BYTES {
        // A command is short and rare: byte by byte needs no buffer that could hold more than the line.
        match stream.read_u8().await? {
            b'\n' => return Ok((line == b"shutdown").then_some(Command::Shutdown)),
            byte => line.push(byte),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async { timeout(Duration::from_secs(20), test).await.unwrap() });
    }

    struct Served {
        _directory: tempfile::TempDir,
        addr: Addr,
        inputs: mpsc::Receiver<Input>,
    }

    impl Served {
        async fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let addr = Addr::Unix(directory.path().join("guest_9001"));
            let (sender, inputs) = mpsc::channel(8);
            tokio::task::spawn_local(serve(addr.clone(), Rc::new(Journal::new()), sender));
            tokio::task::yield_now().await;
            Self { _directory: directory, addr, inputs }
        }

        async fn connect(&self) -> Stream {
            loop {
                match Stream::connect(&self.addr, CONNECTION_TIMEOUT).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        }

        async fn ask(&self, request: &[u8]) -> Vec<u8> {
            let mut stream = self.connect().await;
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            // A connection closed with unread bytes is reset after its answer.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        }
    }

    #[test]
    fn shutdown_is_answered_and_asked_for() {
        local(async {
            let mut served = Served::start().await;
            assert_eq!(served.ask(b"shutdown\n").await, b"ok\n");
            assert!(matches!(served.inputs.recv().await, Some(Input::Shutdown)));
        });
    }

    #[test]
    fn anything_else_is_refused() {
        local(async {
            let mut served = Served::start().await;
            for request in ["reboot\n", "\n", "shutdown \n", "SHUTDOWN\n", "shutdown\r\n"] {
                assert_eq!(served.ask(request.as_bytes()).await, REFUSAL, "{request:?}");
            }
            assert_eq!(served.ask(&[b'x'; MAX_COMMAND_BYTES]).await, REFUSAL);
            assert!(served.inputs.try_recv().is_err());
        });
    }

    #[test]
    fn connections_over_the_limit_are_closed_and_the_port_stays_of_use() {
        local(async {
            let served = Served::start().await;
            let mut silent = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                silent.push(served.connect().await);
            }
            assert_eq!(served.ask(b"shutdown\n").await, b"");
            drop(silent);
            while served.ask(b"shutdown\n").await != b"ok\n" {
                tokio::task::yield_now().await;
            }
        });
    }
}
