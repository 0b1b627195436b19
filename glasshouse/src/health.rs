//! What the services of an enclave last said of their health, for `glasshouse ps`.

use std::{collections::BTreeMap, fmt};

use enclave_init::event::{Event, Health, ServiceState};
use manifest::Measured;
use serde::{Deserialize, Serialize};

/// By name, the services that have a health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Healths(BTreeMap<String, State>);

/// The worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// The last check succeeded.
    Healthy,
    /// No check of this run has succeeded yet.
    Starting,
    /// As many checks in a row failed as the manifest allows.
    Unhealthy,
}

impl Healths {
    /// Before anything runs.
    pub(crate) fn of(manifest: &Measured) -> Self {
        let checked = manifest.services.iter().filter(|service| service.healthcheck.is_some());
        Self(checked.map(|service| (service.name.clone(), State::Starting)).collect())
    }

    /// Takes in what an enclave reports. True if that is news.
    pub(crate) fn take(&mut self, event: &Event) -> bool {
        let (service, state) = match event {
            Event::Health { service, health: Health::Healthy, .. } => (service, State::Healthy),
            Event::Health { service, health: Health::Unhealthy { .. }, .. } => (service, State::Unhealthy),
            Event::Service { service, state: ServiceState::Starting, .. } => (service, State::Starting),
            _ => return false,
        };
        // The enclave is not trusted to name services that its manifest has not.
        match self.0.get_mut(service) {
            Some(known) if *known != state => {
                *known = state;
                true
            }
            _ => false,
        }
    }

    /// Whether no service has a health check.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `-` without any check, else the worst state and whose it is unless it is everybody's.
impl fmt::Display for Healths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(worst) = self.0.values().max() else { return f.write_str("-") };
        f.write_str(match worst {
            State::Healthy => "healthy",
            State::Starting => "starting",
            State::Unhealthy => "unhealthy",
        })?;
        let theirs: Vec<&str> =
            self.0.iter().filter(|(_, state)| *state == worst).map(|(name, _)| name.as_str()).collect();
        if theirs.len() == self.0.len() { Ok(()) } else { write!(f, " ({})", theirs.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healths(names: &[&str]) -> Healths {
        Healths(names.iter().map(|name| ((*name).to_owned(), State::Starting)).collect())
    }

    fn event(service: &str, health: Health) -> Event {
        Event::Health { service: service.to_owned(), run: 1, health }
    }

    fn unhealthy() -> Health {
        Health::Unhealthy { reason: "status 1".to_owned(), output: String::new() }
    }

    #[test]
    fn shows_the_worst_and_whose_it_is() {
        let mut seen = healths(&["app", "db"]);
        assert_eq!(seen.to_string(), "starting");
        assert!(seen.take(&event("app", Health::Healthy)));
        assert_eq!(seen.to_string(), "starting (db)");
        assert!(seen.take(&event("db", unhealthy())));
        assert_eq!(seen.to_string(), "unhealthy (db)");
        assert!(seen.take(&event("db", Health::Healthy)));
        assert_eq!(seen.to_string(), "healthy");
        assert_eq!(healths(&[]).to_string(), "-");
    }

    #[test]
    fn a_new_run_has_its_health_still_to_show() {
        let mut seen = healths(&["app"]);
        assert!(seen.take(&event("app", unhealthy())));
        let started = Event::Service { service: "app".to_owned(), run: 2, state: ServiceState::Starting };
        assert!(seen.take(&started));
        assert_eq!(seen.to_string(), "starting");
    }

    #[test]
    fn what_is_no_news_or_of_nobody_known_changes_nothing() {
        let mut seen = healths(&["app"]);
        assert!(!seen.take(&event("@ra-web-srv", unhealthy())));
        assert!(!seen.take(&Event::Ready));
        assert!(seen.take(&event("app", Health::Healthy)));
        assert!(!seen.take(&event("app", Health::Healthy)));
    }
}
