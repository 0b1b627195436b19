//! From where to where.

use std::fmt;
use std::str::FromStr;

use transport::{Addr, Cid, ParseAddrError};

/// Where to listen and where to carry what comes. As text `LISTEN=TARGET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where clients connect.
    pub listen: Addr,
    /// Where their connections go.
    pub target: Addr,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.target)
    }
}

impl FromStr for Route {
    type Err = ParseRouteError;

    /// The first `=` separates, so a listening path cannot contain one.
    fn from_str(text: &str) -> Result<Self, ParseRouteError> {
        let (listen, target) = text.split_once('=').ok_or(ParseRouteError::NoTarget)?;
        let listen = listen.parse().map_err(ParseRouteError::Listen)?;
        let target = target.parse().map_err(ParseRouteError::Target)?;
        if matches!(target, Addr::Vsock { cid: Cid::ANY, .. }) {
            return Err(ParseRouteError::AnyTarget);
        }
        Ok(Self { listen, target })
    }
}

/// Why a text is not a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRouteError {
    /// No `=`.
    #[error("no `=` between where to listen and the target")]
    NoTarget,
    /// The left side is not an address.
    #[error("where to listen: {0}")]
    Listen(ParseAddrError),
    /// The right side is not an address.
    #[error("target: {0}")]
    Target(ParseAddrError),
    /// The right side does not name one machine.
    #[error("target: cannot connect to any CID, name one")]
    AnyTarget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_route_parses_to_it() {
        for text in [
            "tcp://127.0.0.1:8080=vsock://16:8080",
            "vsock://any:8080=tcp://127.0.0.1:8080",
            "tcp://[::1]:0=hybrid:/run/g/vsock:8443",
            "unix:/run/a=unix:/run/b=c",
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn says_which_side_is_wrong() {
        let error = |text: &str| text.parse::<Route>().unwrap_err();
        assert_eq!(error("tcp://127.0.0.1:80"), ParseRouteError::NoTarget);
        assert!(matches!(error("127.0.0.1:80=unix:/x"), ParseRouteError::Listen(_)));
        assert!(matches!(error("unix:/x=16:80"), ParseRouteError::Target(_)));
        assert_eq!(error("unix:/x=vsock://any:80"), ParseRouteError::AnyTarget);
    }
}
