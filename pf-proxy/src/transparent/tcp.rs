//! TCP connections: allowed or not, made outside, accepted here, carried.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use egress::{Outcome, Protocol, Record, wire::Status};
use intercept::{
    answer::Unreachable,
    flows::{Decision, Wanted},
    plan::{DNS_PORT, Family},
};
use relay::{Engine, LinkOptions};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use transport::Stream;

use super::{device::Commands, guide::Guide, records::Records, resolver::Resolver, uplink::Uplink};

/// Connections that the host is being asked for at once; the programs of further ones are heard when they try again.
const MAX_ASKED: usize = 1024;

/// The kernel takes an ICMP message for a socket only while no program's thread is inside it, and `connect` is when it has
/// just sent its first packet. A message that comes too early is repeated a second later, when the program tries again.
const BEFORE_ICMP: Duration = Duration::from_millis(2);

/// How long the program whose connection was made may take to take it.
const UNCLAIMED: Duration = Duration::from_secs(15);

/// How long to wait after an error of accepting, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything about TCP.
#[derive(Debug)]
pub(super) struct Tcp {
    guide: Arc<Guide>,
    uplink: Uplink,
    records: Arc<Records>,
    resolver: Arc<Resolver>,
    commands: Commands,
    asked: Semaphore,
    engine: Engine,
    link: Arc<LinkOptions>,
    /// What was made outside and is about to be accepted, by its peer.
    made: Mutex<HashMap<SocketAddr, (Instant, Made)>>,
}

/// What the program will speak with.
#[derive(Debug)]
enum Made {
    /// Its destination.
    Outside { stream: Stream, record: Record },
    /// The resolver.
    Resolver,
}

impl Tcp {
    pub(super) fn new(
        guide: &Arc<Guide>,
        uplink: &Uplink,
        records: &Arc<Records>,
        resolver: &Arc<Resolver>,
        commands: Commands,
        engine: Engine,
    ) -> Arc<Self> {
        Arc::new(Self {
            guide: Arc::clone(guide),
            uplink: uplink.clone(),
            records: Arc::clone(records),
            resolver: Arc::clone(resolver),
            commands,
            asked: Semaphore::new(MAX_ASKED),
            engine,
            link: Arc::default(),
            made: Mutex::default(),
        })
    }

    /// Finds out what becomes of a wanted connection, and has the program told.
    pub(super) async fn decide(self: Arc<Self>, wanted: Wanted) {
        let decision = match self.make(&wanted).await {
            Ok(made) => {
                self.made().insert(wanted.peer, (Instant::now(), made));
                Decision::Connected
            }
            Err(decision) => decision,
        };
        tracing::debug!(destination = %wanted.destination, ?decision, "connection decided on");
        if matches!(decision, Decision::Unreachable(_)) {
            sleep(BEFORE_ICMP).await;
        }
        self.commands.decide(wanted.peer, decision).await;
    }

    async fn make(&self, wanted: &Wanted) -> Result<Made, Decision> {
        let to = wanted.destination;
        if to.port() == DNS_PORT && to.ip() == Family::of(to.ip()).resolver() {
            return Ok(Made::Resolver);
        }
        let (destination, verdict) = self.guide.judge(to.ip(), to.port(), Protocol::Tcp);
        let mut record =
            Record::begin(super::records::now_ms(), &destination, to.port(), Protocol::Tcp, &verdict);
        if !verdict.is_allowed() {
            tracing::debug!(%destination, port = to.port(), %verdict, "denied");
            self.records.push(record);
            return Err(Decision::Unreachable(Unreachable::Forbidden));
        }
        let Ok(_place) = self.asked.acquire().await else { return Err(Decision::Silent) };
        let begun = Instant::now();
        match self.uplink.connect(Protocol::Tcp, &destination, to.port()).await {
            Ok((stream, address)) => {
                record.outcome = Outcome::Asked(Status::Connected);
                record.address = record.address.or(address);
                Ok(Made::Outside { stream, record })
            }
            Err(error) => {
                let reason: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(%destination, port = to.port(), reason, "not reached");
                record.outcome = error.status().map_or(Outcome::NoAnswer, Outcome::Asked);
                record.address = record.address.or(error.address());
                record.duration_ms = milliseconds(begun.elapsed());
                self.records.push(record);
                Err(decision(error.status()))
            }
        }
    }

    /// Accepts what the device lets through, for good.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let made = self.made().remove(&peer);
                    // Programs can dial the listener itself, and nothing was made for those.
                    if let Some((_, made)) = made {
                        tokio::spawn(Arc::clone(&self).carry(stream, made));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Closes what was made for programs that did not wait, for good.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            sleep(UNCLAIMED / 3).await;
            self.made().retain(|_, (since, _)| since.elapsed() < UNCLAIMED);
        }
    }

    async fn carry(self: Arc<Self>, program: TcpStream, made: Made) {
        let (outside, mut record) = match made {
            Made::Resolver => return self.resolver.serve(program).await,
            Made::Outside { stream, record } => (stream, record),
        };
        let sockets = (Stream::from(program).into_fd().await, outside.into_fd().await);
        if let (Ok(program), Ok(outside)) = sockets {
            let report = self.engine.relay(program, outside, &self.link).await;
            (record.sent, record.received) = (report.a_to_b, report.b_to_a);
            record.duration_ms = milliseconds(report.lasted);
            tracing::debug!(cause = report.cause.name(), "connection ended");
        }
        self.records.push(record);
    }

    fn made(&self) -> MutexGuard<'_, HashMap<SocketAddr, (Instant, Made)>> {
        // Nobody panics while holding it, and a map of streams is one whatever happened.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the program is told when the host answered so, or did not answer.
fn decision(status: Option<Status>) -> Decision {
    match status {
        Some(Status::Connected) => Decision::Connected,
        Some(Status::Refused) => Decision::Refused,
        Some(Status::TimedOut) => Decision::Silent,
        Some(Status::Denied) => Decision::Unreachable(Unreachable::Forbidden),
        // Without a host there is no network.
        Some(Status::NetworkUnreachable) | None => Decision::Unreachable(Unreachable::Network),
        Some(_) => Decision::Unreachable(Unreachable::Host),
    }
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_answers_is_what_the_program_is_told() {
        use Unreachable::{Forbidden, Host, Network};
        for (status, expected) in [
            (Some(Status::Connected), Decision::Connected),
            (Some(Status::Refused), Decision::Refused),
            (Some(Status::TimedOut), Decision::Silent),
            (Some(Status::HostUnreachable), Decision::Unreachable(Host)),
            (Some(Status::NetworkUnreachable), Decision::Unreachable(Network)),
            (Some(Status::Denied), Decision::Unreachable(Forbidden)),
            (Some(Status::NameNotFound), Decision::Unreachable(Host)),
            (Some(Status::Busy), Decision::Unreachable(Host)),
            (None, Decision::Unreachable(Network)),
        ] {
            assert_eq!(decision(status), expected, "{status:?}");
        }
    }
}
