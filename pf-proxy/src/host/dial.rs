//! Reaching one of several addresses (RFC 8305): the next is tried when one fails or takes long, and the first that
//! answers is taken.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use egress::wire::Status;
use rustix::io::Errno;
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

/// How long an address has the field to itself (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// What came of all addresses together: the status, and the address that it is about.
pub(crate) type Failure = (Status, Option<IpAddr>);

/// Connects to one of `addresses`, which are tried in this order, the families taking turns. Has no limit of its own.
///
/// # Errors
/// The most telling of what went wrong.
pub(crate) async fn dial(addresses: &[IpAddr], port: u16) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut waiting = in_turns(addresses).into_iter().map(|address| SocketAddr::new(address, port));
    let mut tries = JoinSet::new();
    let mut failure: Option<Failure> = None;
    loop {
        let next = waiting.next();
        let is_last = next.is_none();
        if let Some(address) = next {
            tries.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        tokio::select! {
            Some(tried) = tries.join_next() => match tried {
                Ok((address, Ok(stream))) => return Ok((stream, address)),
                Ok((address, Err(error))) => {
                    tracing::debug!(%address, %error, "not reached");
                    let found = (status_of(&error), Some(address.ip()));
                    failure = Some(failure.map_or(found, |before| more_telling(before, found)));
                }
                Err(_) => {}
            },
            () = sleep(HEAD_START), if !is_last => {}
            else => {}
        }
        if is_last && tries.is_empty() {
            return Err(failure.unwrap_or((Status::NameNotFound, None)));
        }
    }
}

/// The same addresses, the families taking turns, beginning with that of the first.
fn in_turns(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut these, mut those): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|a| a.is_ipv6() == first_is_v6);
    these.reverse();
    those.reverse();
    let mut ordered = Vec::with_capacity(addresses.len());
    while !these.is_empty() || !those.is_empty() {
        ordered.extend(these.pop());
        ordered.extend(those.pop());
    }
    ordered
}

/// A peer that refuses says more than a network that does, and any answer more than none.
fn more_telling(one: Failure, other: Failure) -> Failure {
    let rank = |(status, _): &Failure| match status {
        Status::Refused => 0,
        Status::HostUnreachable => 1,
        Status::NetworkUnreachable => 2,
        Status::TimedOut => 3,
        _ => 4,
    };
    if rank(&other) < rank(&one) { other } else { one }
}

/// What the enclave is told of an error of the system.
pub(crate) fn status_of(error: &io::Error) -> Status {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => Status::Refused,
        // A route of kind `prohibit` says EACCES, one of kind `blackhole` EINVAL, a packet filter EPERM.
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::ACCESS | Errno::PERM | Errno::INVAL) => {
            Status::HostUnreachable
        }
        Some(Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) => {
            Status::NetworkUnreachable
        }
        Some(Errno::TIMEDOUT) => Status::TimedOut,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Status::Busy,
        _ => Status::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            in_turns(&parse(&["::1", "::2", "1.1.1.1", "::3", "1.1.1.2"])),
            parse(&["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"])
        );
        assert_eq!(in_turns(&[]), parse(&[]));
    }

    #[test]
    fn the_telling_error_is_told() {
        let address = |last| Some(IpAddr::from([127, 0, 0, last]));
        let (refused, silent) = ((Status::Refused, address(1)), (Status::TimedOut, address(2)));
        assert_eq!(more_telling(silent, refused), refused);
        assert_eq!(more_telling(refused, silent), refused);
    }

    #[tokio::test]
    async fn the_first_that_answers_is_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nobody listens at 127.0.0.2.
        let addresses = ["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let (_, address) = dial(&addresses, port).await.unwrap();
        assert_eq!(address, listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(dial(&addresses, port).await.unwrap_err().0, Status::Refused);
    }
}
