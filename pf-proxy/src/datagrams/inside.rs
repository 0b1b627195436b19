//! The end with the program: each stream becomes a socket of its own, whose datagrams the program sees.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;
use transport::{Addr, Listener, Stream};

use super::{IDLE, MAX_FLOWS};
use crate::{
    Error,
    host::datagrams::{associate, carry},
};

/// A listener for streams of datagrams.
#[derive(Debug)]
pub struct Inside {
    listener: Listener,
    target: SocketAddr,
}

impl Inside {
    /// Listens at `listen` for datagrams to `target`.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub async fn bind(listen: &Addr, target: SocketAddr) -> Result<Self, Error> {
        Ok(Self { listener: Listener::bind(listen).await?, target })
    }

    /// Where the other end connects to.
    pub fn local_addr(&self) -> &Addr {
        self.listener.local_addr()
    }

    /// Serves until the listener breaks; says how.
    pub async fn run(self) -> Error {
        let places = Arc::new(Semaphore::new(MAX_FLOWS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(source) => return Error::Accept { addr: self.local_addr().clone(), source },
            };
            let target = self.target;
            tokio::spawn(async move {
                serve(stream, target).await;
                drop(place);
            });
        }
    }
}

async fn serve(stream: Stream, target: SocketAddr) {
    match associate(target).await {
        Ok(socket) => {
            let carried = carry(stream, &socket, IDLE).await;
            tracing::debug!(%target, received = carried.a_to_b, sent = carried.b_to_a, "no more datagrams");
        }
        Err(error) => tracing::debug!(%target, %error, "no socket for datagrams"),
    }
}
