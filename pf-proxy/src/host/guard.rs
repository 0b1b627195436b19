//! What this host lets an enclave reach, whatever the enclave asks for.
//!
//! The enclave decides first, by its measured manifest, for those who trust the measurement. What is decided here
//! protects the host and its network from the enclave, and can only be narrower.

use std::sync::{Arc, PoisonError, RwLock};

use egress::{Destination, Name, Policy, PolicyError, Protocol, Rule, Verdict};

/// The policies of a host: every one of them has to allow a connection.
#[derive(Clone, Debug)]
pub struct Guard {
    layers: Vec<Policy>,
}

impl Guard {
    /// From the policy of the image's manifest, where it is known, and the operator's own rules.
    ///
    /// Special addresses are refused unless the manifest lists them; where there is no manifest, unless `allow` does.
    /// Without a manifest and without `allow`, everything is allowed that is neither special nor in `deny`.
    ///
    /// # Errors
    /// More rules than a policy may have.
    pub fn new(manifest: Option<Policy>, allow: &[Rule], deny: &[Rule]) -> Result<Self, PolicyError> {
        let own = match allow {
            [] => Policy::all_but(deny)?,
            allow => Policy::compile(allow, deny, &[])?,
        };
        let layers = match manifest {
            Some(manifest) => vec![manifest, own.trusting_classes()],
            None => vec![own],
        };
        Ok(Self { layers })
    }

    /// The verdict of the first policy that denies, or the first policy's.
    pub fn evaluate(&self, destination: &Destination, port: u16, protocol: Protocol) -> Verdict {
        let mut verdicts = self.layers.iter().map(|layer| layer.evaluate(destination, port, protocol));
        let first = verdicts.next().expect("a guard has at least one policy");
        if first.is_allowed() {
            verdicts.find(|verdict| !verdict.is_allowed()).unwrap_or(first)
        } else {
            first
        }
    }

    /// Whether a name may be asked for.
    pub fn permits_name(&self, name: &Name) -> bool {
        self.layers.iter().all(|layer| layer.permits_name(name))
    }
}

/// The guard as it is now: it can be exchanged while it is asked. Clones are the same slot.
#[derive(Clone, Debug)]
pub struct GuardSlot(Arc<RwLock<Arc<Guard>>>);

impl GuardSlot {
    pub(super) fn new(guard: Guard) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(guard))))
    }

    /// Who is asked from now on. Connections that are open go on.
    pub fn exchange(&self, guard: Guard) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(guard);
    }

    pub(super) fn current(&self) -> Arc<Guard> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn allows(guard: &Guard, destination: &str) -> bool {
        let destination = match destination.parse() {
            Ok(address) => Destination::Address(address),
            Err(_) => Destination::Name(destination.parse().unwrap()),
        };
        guard.evaluate(&destination, 443, Protocol::Tcp).is_allowed()
    }

    #[test]
    fn without_rules_everything_public_is_allowed() {
        let guard = Guard::new(None, &[], &rules(&["*.evil.example:*"])).unwrap();
        assert!(allows(&guard, "a.example") && allows(&guard, "1.1.1.1") && allows(&guard, "2606:4700::1"));
        assert!(!allows(&guard, "a.evil.example"));
        for special in
            ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", "::ffff:127.0.0.1"]
        {
            assert!(!allows(&guard, special), "{special}");
        }
    }

    #[test]
    fn the_operators_rules_narrow_the_manifests() {
        let manifest = || Some(Policy::compile(&rules(&["*:443", "10.0.0.0/8:443"]), &[], &[]).unwrap());
        let narrowed = Guard::new(manifest(), &rules(&["a.example:443", "10.1.0.0/16:443"]), &[]).unwrap();
        assert!(allows(&narrowed, "a.example") && allows(&narrowed, "10.1.2.3"));
        assert!(!allows(&narrowed, "b.example") && !allows(&narrowed, "10.2.2.3"));
        let denied = Guard::new(manifest(), &[], &rules(&["10.0.0.0/8:*"])).unwrap();
        assert!(allows(&denied, "b.example") && !allows(&denied, "10.1.2.3"));
    }

    #[test]
    fn the_operators_rules_do_not_widen_the_manifests() {
        let manifest = Policy::compile(&rules(&["a.example:443"]), &[], &[]).unwrap();
        let guard =
            Guard::new(Some(manifest), &rules(&["*:*", "0.0.0.0/0:*", "169.254.169.254:*"]), &[]).unwrap();
        assert!(allows(&guard, "a.example"));
        assert!(
            !allows(&guard, "b.example") && !allows(&guard, "169.254.169.254") && !allows(&guard, "1.1.1.1")
        );
        assert!(!guard.permits_name(&"b.example".parse().unwrap()));
    }

    #[test]
    fn a_name_that_leads_into_a_special_range_is_refused() {
        let guard = Guard::new(None, &[], &[]).unwrap();
        for address in
            ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::169.254.169.254"]
        {
            let resolved = Destination::Resolved("a.example".parse().unwrap(), address.parse().unwrap());
            assert!(!guard.evaluate(&resolved, 443, Protocol::Tcp).is_allowed(), "{address}");
        }
    }
}
