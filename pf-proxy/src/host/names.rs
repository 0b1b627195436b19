//! From a name to addresses, by whatever the host uses itself.

use std::{future::Future, io, net::IpAddr, pin::Pin};

use egress::{Name, wire::Status};
use tokio::sync::Semaphore;

/// Names resolved at once: each takes a thread, and an enclave must not have them all.
const AT_ONCE: usize = 64;

/// Most addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 16;

/// The addresses of a name, still to come.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, Status>> + Send + 'a>>;

/// Whoever knows the addresses of names.
pub trait Resolve: Send + Sync {
    /// The addresses of `name`, the preferred first.
    ///
    /// # Errors
    /// [`Status::NameNotFound`], or [`Status::Failed`] when that is not certain.
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a>;
}

/// The system's resolver: `getaddrinfo(3)`, with `/etc/hosts` and all.
#[derive(Debug)]
pub struct SystemResolver {
    places: Semaphore,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE) }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(async move {
            let _place = self.places.acquire().await.map_err(|_| Status::Failed)?;
            let found =
                tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|error| status_of(&error))?;
            let mut addresses = Vec::new();
            for address in found.map(|socket| socket.ip().to_canonical()) {
                if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() { Err(Status::NameNotFound) } else { Ok(addresses) }
        })
    }
}

/// The standard library keeps the code of `getaddrinfo(3)` to itself and tells its text only.
fn status_of(error: &io::Error) -> Status {
    let uncertain = ["Temporary failure", "System error", "Memory allocation"];
    let text = error.to_string();
    match error.raw_os_error().is_some() || uncertain.iter().any(|part| text.contains(part)) {
        true => Status::Failed,
        false => Status::NameNotFound,
    }
}
