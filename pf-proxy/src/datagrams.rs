//! Published UDP ports: datagrams of clients in the world, carried over streams to a program in the enclave.
//!
//! Each client has a stream of its own (`docs/spec/datagrams.md`). [`Outside`] is the end with the clients, [`Inside`] the end with
//! the program; what goes out of an enclave by UDP is another matter ([`crate::transparent`], [`crate::host`]).

mod inside;
mod outside;

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use tokio::task::JoinSet;
use transport::{Addr, Cid, ParseAddrError};

use crate::{Error, metrics::Registry};

pub use inside::Inside;
pub use outside::{Outside, OutsideConfig};

/// Clients at once at one end; datagrams of further ones are lost.
pub(crate) const MAX_FLOWS: usize = 4096;

/// How long a client whom the program has answered may be silent, both ways, before it is forgotten (RFC 4787 asks for two minutes at
/// least).
const IDLE: Duration = Duration::from_secs(150);

/// The same before the first answer. Shorter: whoever writes others' addresses into datagrams is not answered, and takes places.
const UNANSWERED_IDLE: Duration = Duration::from_secs(15);

/// Where datagrams arrive and where they go. As text `udp://ADDRESS:PORT=TARGET`, or `LISTEN=udp://ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatagramRoute {
    /// From clients who send to this address, to streams.
    Outside {
        /// Where clients send to.
        listen: SocketAddr,
        /// Where the other end listens.
        target: Addr,
    },
    /// From streams, to the program that has this address.
    Inside {
        /// Where the other end connects to.
        listen: Addr,
        /// The program's address.
        target: SocketAddr,
    },
}

/// Why a text is not a way of datagrams.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramRouteError {
    /// Not one side of each kind.
    #[error(
        "expected udp://ADDRESS:PORT=TARGET where clients are, or LISTEN=udp://ADDRESS:PORT where the program is"
    )]
    Form,
    /// The side that is not UDP is not an address.
    #[error(transparent)]
    Address(#[from] ParseAddrError),
    /// The target does not name one machine.
    #[error("target: cannot connect to any CID, name one")]
    AnyTarget,
}

impl FromStr for DatagramRoute {
    type Err = DatagramRouteError;

    fn from_str(text: &str) -> Result<Self, DatagramRouteError> {
        let (listen, target) = text.split_once('=').ok_or(DatagramRouteError::Form)?;
        let datagrams = |side: &str| {
            let address = side.strip_prefix("udp://")?;
            Some(address.parse::<SocketAddr>().map_err(|_| DatagramRouteError::Form))
        };
        match (datagrams(listen), datagrams(target)) {
            (Some(listen), None) => match target.parse()? {
                Addr::Vsock { cid: Cid::ANY, .. } => Err(DatagramRouteError::AnyTarget),
                target => Ok(Self::Outside { listen: listen?, target }),
            },
            (None, Some(target)) => Ok(Self::Inside { listen: listen.parse()?, target: target? }),
            _ => Err(DatagramRouteError::Form),
        }
    }
}

impl fmt::Display for DatagramRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside { listen, target } => write!(f, "udp://{listen}={target}"),
            Self::Inside { listen, target } => write!(f, "{listen}=udp://{target}"),
        }
    }
}

/// The ends of one process.
#[derive(Debug, Default)]
pub struct Datagrams {
    ends: JoinSet<Error>,
}

impl Datagrams {
    /// Binds all, or none, and serves them until this is dropped. Needs a runtime around it.
    ///
    /// # Errors
    /// [`Error`] for the first that cannot be bound.
    pub async fn serve(routes: &[DatagramRoute], registry: &Registry) -> Result<Self, Error> {
        let (mut outside, mut inside) = (Vec::new(), Vec::new());
        for route in routes {
            match route {
                DatagramRoute::Outside { listen, target } => {
                    let config = OutsideConfig::plain(*listen, target.clone());
                    outside.push(Outside::bind(config, registry)?);
                }
                DatagramRoute::Inside { listen, target } => inside.push(Inside::bind(listen, *target).await?),
            }
        }
        let mut ends = JoinSet::new();
        for end in outside {
            tracing::info!(listen = %end.local_addr(), "carrying datagrams");
            ends.spawn(async move { end.run().await });
        }
        for end in inside {
            tracing::info!(listen = %end.local_addr(), "carrying datagrams");
            ends.spawn(end.run());
        }
        Ok(Self { ends })
    }

    /// Ready when a listener breaks.
    pub async fn broken(&mut self) -> Error {
        loop {
            match self.ends.join_next().await {
                Some(Ok(error)) => return error,
                // Nobody cancels them, and one that panicked has said so.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_has_one_side_of_each_kind() {
        for text in [
            "udp://0.0.0.0:443=vsock://16:65979",
            "udp://[::]:443=hybrid:/run/v:65979",
            "vsock://any:65979=udp://127.0.0.1:443",
            "unix:/run/guest=udp://[::1]:443",
        ] {
            assert_eq!(text.parse::<DatagramRoute>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "udp://127.0.0.1:1",
            "udp://127.0.0.1:1=udp://127.0.0.1:2",
            "unix:/a=unix:/b",
            "udp://x:1=unix:/b",
        ] {
            assert_eq!(text.parse::<DatagramRoute>(), Err(DatagramRouteError::Form), "{text}");
        }
        let any = "udp://127.0.0.1:1=vsock://any:1".parse::<DatagramRoute>();
        assert_eq!(any, Err(DatagramRouteError::AnyTarget));
        assert!(matches!(
            "udp://127.0.0.1:1=80".parse::<DatagramRoute>(),
            Err(DatagramRouteError::Address(_))
        ));
    }
}
