//! The host's end of hybrid vsock for a guest that is only a set of Unix sockets.
//!
//! Where a virtual machine monitor would turn `CONNECT P` into a vsock connection, the switchboard connects to the
//! Unix socket `guest_P` beside its own. Run by the supervisor of the local backend.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::{HandshakeError, line, read_line};
use crate::connect::connect_in_place;
use crate::{Addr, BindError, ConnectError, Listener, Port, RelayError, RelayOptions, Stream, relay};

/// How long a client may take to say `CONNECT`, and the guest to take the connection.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections are served at once; more wait in the listener's queue.
pub const MAX_CONNECTIONS: usize = 4096;

/// Listens at a socket and maps `CONNECT P` to the socket `guest_P` in the same folder.
#[derive(Debug)]
pub struct Switchboard {
    listener: Listener,
    folder: Arc<Path>,
}

impl Switchboard {
    /// Listens at `path`, usually `<folder>/vsock`.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let listener = Listener::bind(&Addr::Unix(path.to_owned())).await?;
        let folder = path.parent().unwrap_or(Path::new("")).into();
        Ok(Self { listener, folder })
    }

    /// Where the guest has to listen to be reached at `port`.
    pub fn guest_path(folder: &Path, port: Port) -> PathBuf {
        folder.join(format!("guest_{port}"))
    }

    /// Serves until dropped; open connections end with it.
    ///
    /// # Errors
    /// When the listener itself fails.
    pub async fn run(&self) -> io::Result<Infallible> {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
            let (client, _) = self.listener.accept().await?;
            let folder = Arc::clone(&self.folder);
            connections.spawn(async move {
                if let Err(error) = serve(client, &folder).await {
                    let reason: &(dyn std::error::Error + 'static) = &error;
                    tracing::debug!(reason, "hybrid connection ended early");
                }
            });
        }
    }
}

/// Why one connection through a switchboard ended early.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("client said nothing for {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Silent,
    #[error("client does not speak hybrid vsock")]
    Handshake(#[from] HandshakeError),
    #[error("guest not reached")]
    Guest(#[from] ConnectError),
    #[error("connection broke")]
    Relay(#[from] RelayError),
}

/// A port nobody listens on is refused by closing without `OK`.
async fn serve(mut client: Stream, folder: &Path) -> Result<(), ServeError> {
    let asked = tokio::time::timeout(HANDSHAKE_TIMEOUT, read_line(&mut client)).await;
    let port = line::parse_connect(&asked.map_err(|_| ServeError::Silent)??).map_err(HandshakeError::from)?;
    let guest = connect_in_place(&Switchboard::guest_path(folder, port), HANDSHAKE_TIMEOUT).await?;
    client.write_all(&line::ok(port)).await.map_err(HandshakeError::from)?;
    relay(client, guest, RelayOptions::default()).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
