//! The published ports of a running enclave: bound before it boots, served when it is ready.

use std::num::NonZeroU32;

use anyhow::Result;
use manifest::Protocol;
use pf_proxy::{
    Options, Reverse,
    datagrams::{Outside, OutsideConfig},
    ingress::{ProxyHeader, RouteConfig},
};
use transport::Addr;

use crate::{host::Fabric, publish::Publish, run::Plan};

/// Ports of this machine that lead to the enclave.
#[derive(Debug)]
pub(crate) struct Published {
    connections: Reverse,
    datagrams: Vec<Outside>,
}

impl Published {
    /// Binds them all, or none; with them, where they are bound.
    pub(crate) fn bind(plan: &Plan, fabric: &Fabric) -> Result<(Self, Vec<Publish>)> {
        let wanted = |protocol| plan.publish.iter().filter(move |port| port.protocol == protocol);
        let routes = wanted(Protocol::Tcp).map(|port| route(plan, fabric, port)).collect();
        let connections = Reverse::bind_routes(routes, &Options::default(), plan.registry.clone())?;
        let outside = |port: &Publish| {
            let name = format!("{}:{}/udp", plan.name, port.enclave);
            let max_per_source = plan.max_per_source.map(NonZeroU32::get);
            let target = fabric.enclave_addr(port.vsock_port());
            let config = OutsideConfig { name, listen: port.host, target, max_per_source };
            Outside::bind(config, &plan.registry)
        };
        let datagrams = wanted(Protocol::Udp).map(outside).collect::<Result<Vec<_>, _>>()?;
        let published = Self { connections, datagrams };
        let bound = published.bound(&plan.publish);
        Ok((published, bound))
    }

    /// Serves until the runtime ends.
    pub(crate) fn serve(self) {
        tokio::spawn(self.connections.run(std::future::pending()));
        for port in self.datagrams {
            tokio::spawn(port.run());
        }
    }

    /// The published ports with the numbers that the system chose for port 0.
    fn bound(&self, wanted: &[Publish]) -> Vec<Publish> {
        let mut connections = self.connections.local_addrs().into_iter();
        let mut datagrams = self.datagrams.iter().map(Outside::local_addr);
        let actual = |port: &Publish| {
            let host = match port.protocol {
                Protocol::Udp => datagrams.next(),
                Protocol::Tcp => connections.next().and_then(|addr| match addr {
                    Addr::Tcp(text) => text.parse().ok(),
                    _ => None,
                }),
            };
            Publish { host: host.unwrap_or(port.host), ..*port }
        };
        wanted.iter().map(actual).collect()
    }
}

fn route(plan: &Plan, fabric: &Fabric, port: &Publish) -> RouteConfig {
    let names_clients = |entry: &manifest::Publish| {
        (entry.port, entry.protocol) == (port.enclave, Protocol::Tcp) && entry.client_address.is_some()
    };
    let wants_header = plan.image.manifest.publish.iter().any(names_clients);
    RouteConfig {
        name: format!("{}:{}", plan.name, port.enclave),
        proxy_header: if wants_header { ProxyHeader::Send } else { ProxyHeader::Off },
        max_per_source: plan.max_per_source.map(NonZeroU32::get),
        ..RouteConfig::plain(Addr::Tcp(port.host.to_string()), fabric.enclave_addr(port.vsock_port()))
    }
}
