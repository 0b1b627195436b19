//! Publishing ports: an [`Ingress`] of plain routes, bound first and served later.

use std::future::Future;

use transport::Addr;

use crate::Route;
use crate::ingress::{Error, Ingress, Options, RouteConfig, Summary};
use crate::metrics::Registry;

/// A proxy whose listeners are bound and not yet served: clients may connect, and wait.
#[derive(Debug)]
pub struct Reverse {
    ingress: Ingress,
}

impl Reverse {
    /// Binds the listeners of all routes, or none.
    ///
    /// # Errors
    /// [`Error::Bind`] for the first that cannot be bound; other [`Error`]s for routes that make no sense.
    pub fn bind(routes: &[Route], options: &Options) -> Result<Self, Error> {
        let plain = |route: &Route| RouteConfig {
            connect_timeout: options.connect_timeout,
            ..RouteConfig::from(route.clone())
        };
        let routes = routes.iter().map(plain).collect();
        Ok(Self { ingress: Ingress::bind(routes, options, Registry::default())? })
    }

    /// The same for routes with more to them, counted in `registry`.
    ///
    /// # Errors
    /// As for [`Reverse::bind`].
    pub fn bind_routes(
        routes: Vec<RouteConfig>,
        options: &Options,
        registry: Registry,
    ) -> Result<Self, Error> {
        Ok(Self { ingress: Ingress::bind(routes, options, registry)? })
    }

    /// Where clients can connect, in the order of the routes. A port that was 0 has its number here.
    pub fn local_addrs(&self) -> Vec<Addr> {
        self.ingress.local_addrs()
    }

    /// Serves until `shutdown` is ready; then accepts no more, and waits for open connections as long as
    /// [`Options::grace`] says. Dropping the future ends everything at once.
    ///
    /// # Errors
    /// [`Error::Accept`] when a listener breaks. A failed connection is not an error.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Summary, Error> {
        self.ingress.serve();
        self.ingress.run(shutdown).await
    }
}
