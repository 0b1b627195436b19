//! What an address that a program dials stands for, and whether it may.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use egress::{Destination, Name, Policy, Protocol, Verdict};
use intercept::{names::Names, plan};

/// The policy, and the addresses lent to names.
#[derive(Debug)]
pub(super) struct Guide {
    policy: Policy,
    names: Mutex<Names>,
}

impl Guide {
    pub(super) fn new(policy: Policy) -> Self {
        let names = Names::new(policy.names().map(|name| name.as_str().to_owned()));
        Self { policy, names: Mutex::new(names) }
    }

    /// What a connection to this address is for, and what the policy says of it. An address of ours that is lent to no name
    /// is what it is, and nobody's outside.
    pub(super) fn judge(&self, address: IpAddr, port: u16, protocol: Protocol) -> (Destination, Verdict) {
        let name =
            self.names().name_of(Instant::now(), address).and_then(|name| Name::from_normal(name).ok());
        let destination = name.map_or(Destination::Address(address), Destination::Name);
        let judged = match &destination {
            // Only a policy that allows every address would let these pass, and they lead nowhere.
            Destination::Address(address) if plan::is_of_the_plan(*address) => {
                Policy::default().evaluate(&destination, port, protocol)
            }
            _ => self.policy.evaluate(&destination, port, protocol),
        };
        (destination, judged)
    }

    /// The verdict about a name that no connection may be made to.
    pub(super) fn judge_name(&self, name: &Name) -> Verdict {
        self.policy.evaluate(&Destination::Name(name.clone()), 0, Protocol::Tcp)
    }

    pub(super) fn permits(&self, name: &Name) -> bool {
        self.policy.permits_name(name)
    }

    /// The addresses of a permitted name; `None` when all are in use.
    pub(super) fn lend(&self, name: &Name) -> Option<(IpAddr, IpAddr)> {
        self.names().lend(Instant::now(), name.as_str()).ok()
    }

    /// The name that an address belongs to.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<String> {
        if [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address) {
            return Some("localhost".to_owned());
        }
        self.names().name_of(Instant::now(), address).map(str::to_owned)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        // Whoever panicked left a table that is still consistent: its methods change it last.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
