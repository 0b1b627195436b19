//! What may be reached: rules, and the verdicts they give.

use std::{fmt, net::IpAddr};

use crate::{
    Destination, Name, Network, Pattern, Protocol, Rule,
    class::{Special, canonical, special},
};

/// Most rules of one policy, over all its lists.
pub const MAX_RULES: usize = 4096;

/// A compiled policy. Nothing is allowed that no rule allows, and nothing that a rule denies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    into: Vec<Network>,
    trusts_classes: bool,
}

/// Why rules do not make a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a policy has at most {MAX_RULES} rules, found {found}")]
pub struct PolicyError {
    /// How many there are.
    pub found: usize,
}

/// What a policy says of one connection, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    reason: Reason,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A rule allows it.
    Allowed(Rule),
    /// A rule denies it.
    Denied(Rule),
    /// No rule allows it.
    NoRule,
    /// Its address is a special one that the policy does not list.
    Special(IpAddr, Special),
    /// The port is 0, which nobody listens on.
    PortZero,
}

impl Policy {
    /// Makes a policy of what is allowed, what is denied, and the special ranges that allowed names may resolve into.
    ///
    /// # Errors
    /// More than [`MAX_RULES`] rules.
    pub fn compile(allow: &[Rule], deny: &[Rule], into: &[Network]) -> Result<Self, PolicyError> {
        let found = allow.len().saturating_add(deny.len()).saturating_add(into.len());
        if found > MAX_RULES {
            return Err(PolicyError { found });
        }
        Ok(Self { allow: allow.to_vec(), deny: deny.to_vec(), into: into.to_vec(), trusts_classes: false })
    }

    /// Everything is allowed that is neither special nor denied.
    ///
    /// # Errors
    /// More than [`MAX_RULES`] rules.
    pub fn all_but(deny: &[Rule]) -> Result<Self, PolicyError> {
        let every = ["*:*", "0.0.0.0/0:*", "[::]/0:*", "udp:*:*", "udp:0.0.0.0/0:*", "udp:[::]/0:*"];
        let allow = every.map(|text| text.parse().expect("these texts are rules"));
        Self::compile(&allow, deny, &[])
    }

    /// The same policy, without its own opinion about special addresses: for a further policy beside one that has it.
    #[must_use]
    pub fn trusting_classes(self) -> Self {
        Self { trusts_classes: true, ..self }
    }

    /// Whether a name may be asked for: some connection to it could be allowed.
    pub fn permits_name(&self, name: &Name) -> bool {
        let destination = Destination::Name(name.clone());
        self.allow.iter().filter(|rule| rule.pattern().matches_name(name)).any(|rule| {
            let ends = [rule.ports().first(), rule.ports().last()];
            ends.into_iter().any(|port| self.evaluate(&destination, port, rule.protocol()).is_allowed())
        })
    }

    /// The names that rules spell out, in the rules' order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.allow.iter().filter_map(|rule| match rule.pattern() {
            Pattern::Name(name) => Some(name),
            _ => None,
        })
    }

    /// Whether nothing at all is allowed.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty()
    }

    /// What the policy says of a connection. What is denied for a name here is not resolved at all; what is allowed is
    /// asked about again with the address, as [`Destination::Resolved`].
    pub fn evaluate(&self, destination: &Destination, port: u16, protocol: Protocol) -> Verdict {
        Verdict { reason: self.reason(destination, port, protocol) }
    }

    fn reason(&self, destination: &Destination, port: u16, protocol: Protocol) -> Reason {
        let destination = match destination {
            Destination::Address(address) => &Destination::Address(canonical(*address)),
            other => other,
        };
        let address = destination.address().map(canonical);
        if port == 0 {
            return Reason::PortZero;
        }
        let denies = |rule: &&Rule| {
            let by_address = address.is_some_and(|address| rule.pattern().matches_address(address));
            rule.is_about(protocol, port) && (rule.pattern().matches(destination) || by_address)
        };
        if let Some(rule) = self.deny.iter().find(denies) {
            return Reason::Denied(rule.clone());
        }
        let mut allowing =
            self.allow.iter().filter(|r| r.is_about(protocol, port) && r.pattern().matches(destination));
        let Some(first) = allowing.next() else {
            return Reason::NoRule;
        };
        match address.and_then(|address| Some((address, special(address)?))) {
            Some((address, special)) if !self.lists(address, special, port, protocol) => {
                Reason::Special(address, special)
            }
            _ => Reason::Allowed(first.clone()),
        }
    }

    /// Whether a range of this policy that has `address` lies in the special range, so that whoever wrote it meant it.
    fn lists(&self, address: IpAddr, special: Special, port: u16, protocol: Protocol) -> bool {
        let meant = |network: &Network| network.contains(address) && special.range.covers(network);
        let by_rule = |rule: &Rule| match rule.pattern() {
            Pattern::Network(network) => rule.is_about(protocol, port) && meant(network),
            _ => false,
        };
        self.trusts_classes || self.into.iter().any(meant) || self.allow.iter().any(by_rule)
    }

    /// The special ranges that this policy opens, as an operator wants to know before it runs.
    pub fn opened(&self) -> Vec<(Network, Special)> {
        let allowed = self.allow.iter().filter_map(|rule| match rule.pattern() {
            Pattern::Network(network) => Some(network),
            _ => None,
        });
        let opens = |network: &Network| {
            let special = special(network.address())?;
            special.range.covers(network).then_some((*network, special))
        };
        let mut opened: Vec<_> = allowed.chain(&self.into).filter_map(opens).collect();
        opened.sort_by_key(|(network, _)| *network);
        opened.dedup();
        opened
    }
}

impl Verdict {
    /// Whether the connection may be made.
    pub fn is_allowed(&self) -> bool {
        matches!(self.reason, Reason::Allowed(_))
    }

    /// What decided.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The rule that decided, where one did.
    pub fn rule(&self) -> Option<&Rule> {
        match &self.reason {
            Reason::Allowed(rule) | Reason::Denied(rule) => Some(rule),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    /// `allowed by "*.example.org:443"`, `denied by ...`, `denied: ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Allowed(rule) => write!(f, "allowed by \"{rule}\""),
            Reason::Denied(rule) => write!(f, "denied by \"{rule}\""),
            Reason::NoRule => f.write_str("denied: no rule allows it"),
            Reason::PortZero => f.write_str("denied: port 0 is none"),
            Reason::Special(address, Special { class, range }) => {
                write!(f, "denied: {address} is {class} ({range}) and not listed by address or range")
            }
        }
    }
}
