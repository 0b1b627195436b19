//! The enclave's way out: every program has the network it expects, and only the network that was measured.
//!
//! A TUN device is the only route there is. TCP connections into it are readdressed so that they arrive at a listener of
//! this process ([`intercept::flows`]), but not before the policy has allowed them and the host has made them outside; what
//! the host answers is the errno that the program gets. Datagrams are taken from the device themselves. A resolver answers
//! for the names that the policy allows, with addresses that are known again.
//!
//! The host is asked for each connection by name, and decides nothing: whatever it answers, only what the policy allows is
//! ever asked of it.
//!
//! Init starts it before the services. One thread moves packets, those of the relay engine move bytes, and one does
//! everything else.

pub(crate) mod cli;
mod device;
mod doh;
mod guide;
mod ledger;
mod records;
mod resolver;
mod tcp;
mod udp;
mod uplink;
mod upstream;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use egress::Policy;
use intercept::{flows::Listeners, plan};
use manifest::Dns;
use relay::Engine;
use rustls::RootCertStore;
use sys::tun::Tun;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
    task::JoinSet,
};
use transport::Addr;

use self::{
    device::{Device, Event},
    guide::Guide,
    ledger::Ledger,
    records::Records,
    resolver::Resolver,
    tcp::Tcp,
    udp::Udp,
    uplink::Uplink,
    upstream::Upstream,
};

/// The largest packet of the device, in bytes: that of most networks, so that programs that look for the largest datagram
/// find one that gets through outside. TCP is handed over in larger pieces all the same.
const MTU: u16 = 1500;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Packets and wishes on their way from the device.
const QUEUE: usize = 4096;

/// What it takes to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What may be reached.
    pub policy: Policy,
    /// Who answers what is asked about names beside their addresses.
    pub dns: Dns,
    /// The roots that the resolver of `dns` is trusted by, if it is asked by TLS or HTTPS.
    pub dns_roots: RootCertStore,
    /// Where the host is asked.
    pub host: Addr,
    /// The control device of TUN devices.
    pub tun: PathBuf,
    /// The name of the device to be made.
    pub device: String,
    /// How many TCP connections there may be at once.
    pub max_connections: usize,
    /// The socket of the ledger that keeps the records, if there is one.
    pub ledger: Option<PathBuf>,
}

/// Why there is no way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device cannot be made.
    #[error("cannot make a TUN device by {path}")]
    Tun {
        /// The control device.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// The device gets no address or no route.
    #[error("cannot route IPv{version} into the device")]
    Route {
        /// 4 or 6.
        version: u8,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// The listener behind the device.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// The device ended, or a task of ours did.
    #[error("the device ended")]
    Device(#[source] io::Error),
}

/// Everything made and bound, and not yet served.
#[derive(Debug)]
pub struct Transparent {
    device: Device,
    listeners: Vec<TcpListener>,
    config: Config,
}

impl Transparent {
    /// Makes the device and the routes into it.
    ///
    /// # Errors
    /// [`Error`]. A system without IPv6 is none.
    pub fn set_up(config: Config) -> Result<Self, Error> {
        let path = config.tun.clone();
        let tun = Tun::create(&path, &config.device).map_err(|source| Error::Tun { path, source })?;
        let route = |version| move |source| Error::Route { version, source };
        tun.raise(MTU).map_err(route(4))?;
        tun.route_ipv4(plan::OWN_IPV4).map_err(route(4))?;
        let mut listeners = vec![listen(plan::OWN_IPV4.into())?];
        match tun.route_ipv6(plan::OWN_IPV6) {
            Ok(()) => listeners.push(listen(plan::OWN_IPV6.into())?),
            Err(error) if is_without_ipv6(&error) => tracing::warn!(%error, "no IPv6 here"),
            Err(source) => return Err(Error::Route { version: 6, source }),
        }
        let ports = Listeners { v4: port(listeners.first()), v6: port(listeners.get(1)) };
        let device = Device::new(tun.into_file(), ports, config.max_connections);
        Ok(Self { device, listeners, config })
    }

    /// Serves until `shutdown` is ready. Connections that are open end with it.
    ///
    /// # Errors
    /// [`Error::Device`] when the device breaks.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { device, listeners, config } = self;
        let (events, mut happened) = mpsc::channel(QUEUE);
        let (commands, mut ended) = device.start(events).map_err(Error::Device)?;

        let engine = Engine::start(Engine::default_threads()).map_err(Error::Device)?;
        let guide = Arc::new(Guide::new(config.policy));
        let records = Arc::new(Records::default());
        let uplink = Uplink::new(config.host);
        let upstream = Upstream::new(uplink.clone(), &config.dns, config.dns_roots);
        let resolver = Arc::new(Resolver::new(Arc::clone(&guide), upstream, Arc::clone(&records)));
        let tcp = Tcp::new(&guide, &uplink, &records, &resolver, commands.clone(), engine);
        let udp = Udp::new(&guide, &uplink, &records, &resolver, commands);

        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&records).write(config.ledger.map(Ledger::new)));
        for listener in listeners {
            tasks.spawn(Arc::clone(&tcp).accept(listener));
        }
        tasks.spawn(Arc::clone(&tcp).sweep());
        tokio::pin!(shutdown);
        let outcome = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                error = &mut ended => break Err(Error::Device(device::why(error))),
                Some(event) = happened.recv() => match event {
                    Event::Wanted(wanted) => drop(tokio::spawn(Arc::clone(&tcp).decide(wanted))),
                    Event::Datagram(datagram) => Arc::clone(&udp).take(datagram),
                },
            }
        };
        records.flush();
        outcome
    }
}

fn listen(own: IpAddr) -> Result<TcpListener, Error> {
    let address = SocketAddr::new(own, 0);
    let bind = || {
        let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| Error::Listen { address, source })
}

fn port(listener: Option<&TcpListener>) -> u16 {
    listener.and_then(|listener| listener.local_addr().ok()).map_or(0, |address| address.port())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::AFNOSUPPORT, Errno::ACCESS, Errno::NODEV, Errno::OPNOTSUPP, Errno::NOENT];
    error.raw_os_error().is_some_and(|code| absent.iter().any(|errno| errno.raw_os_error() == code))
}
