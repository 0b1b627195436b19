//! Routes that lead back to where they start: each client would fill every place there is.

use std::net::{IpAddr, SocketAddr};

use transport::{Addr, Cid};

use crate::ingress::{Error, RouteConfig};

/// Checks routes, each with the address it is bound to.
pub(super) fn check<'a>(routes: impl Iterator<Item = (&'a RouteConfig, &'a Addr)>) -> Result<(), Error> {
    let routes: Vec<_> = routes.collect();
    for (start, (_, listen)) in routes.iter().enumerate() {
        let mut reached = vec![false; routes.len()];
        let mut next = vec![start];
        while let Some(index) = next.pop() {
            for target in routes[index].0.targets() {
                for (other, _) in routes.iter().enumerate().filter(|(_, (_, bound))| leads(target, bound)) {
                    if other == start {
                        return Err(Error::Loop { listen: (*listen).clone(), target: target.clone() });
                    }
                    if !std::mem::replace(&mut reached[other], true) {
                        next.push(other);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether who connects to `target` gets to a listener at `bound`, as far as can be told without asking anybody.
fn leads(target: &Addr, bound: &Addr) -> bool {
    match (target, bound) {
        (Addr::Tcp(target), Addr::Tcp(bound)) => leads_tcp(target, bound),
        // Our own CID is not known here; 1 is always this machine.
        (Addr::Vsock { cid, port }, Addr::Vsock { cid: own, port: bound }) => {
            port == bound && (cid == own || *cid == Cid(1))
        }
        (Addr::Unix(target), Addr::Hybrid { path, port }) => *target == Addr::hybrid_listen_path(path, *port),
        _ => target == bound,
    }
}

fn leads_tcp(target: &str, bound: &str) -> bool {
    let target = target.replace("localhost:", "127.0.0.1:");
    let (Ok(target), Ok(bound)) = (target.parse::<SocketAddr>(), bound.parse::<SocketAddr>()) else {
        return target == bound;
    };
    let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let (to, own) = (target.ip().to_canonical(), bound.ip().to_canonical());
    target.port() == bound.port()
        && (to == own || own.is_unspecified() && is_here(to) || is_here(own) && to.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(routes: &[(&str, &str)]) -> Result<(), Error> {
        let routes: Vec<_> = routes
            .iter()
            .map(|(listen, target)| RouteConfig::plain(listen.parse().unwrap(), target.parse().unwrap()))
            .collect();
        check(routes.iter().map(|route| (route, &route.listen)))
    }

    #[test]
    fn a_round_of_any_length_is_found() {
        assert!(matches!(outcome(&[("tcp://0.0.0.0:80", "tcp://127.0.0.1:80")]), Err(Error::Loop { .. })));
        assert!(outcome(&[("tcp://[::]:80", "tcp://localhost:80")]).is_err());
        assert!(outcome(&[("tcp://127.0.0.1:80", "unix:/a"), ("unix:/a", "tcp://127.0.0.1:80")]).is_err());
        assert!(outcome(&[("vsock://any:5", "vsock://1:5")]).is_err());
        assert!(outcome(&[("hybrid:/v:5", "unix:/v_5")]).is_err());
        let chain = [("unix:/a", "unix:/b"), ("unix:/b", "unix:/c"), ("unix:/c", "unix:/b")];
        assert!(outcome(&chain).is_err());
    }

    #[test]
    fn what_leads_on_is_none() {
        let chain =
            [("unix:/a", "unix:/b"), ("unix:/b", "unix:/c"), ("tcp://127.0.0.1:80", "tcp://127.0.0.2:80")];
        assert!(outcome(&chain).is_ok());
        assert!(outcome(&[("vsock://any:80", "tcp://127.0.0.1:80")]).is_ok());
        assert!(outcome(&[("tcp://0.0.0.0:80", "vsock://16:80")]).is_ok());
    }
}
