//! How often and how soon a request is made again.

use std::{thread::sleep, time::Duration};

use super::error::RegistryError;

/// Tries after the first one.
const MAX_RETRIES: u32 = 4;
/// Before the second try; doubled before each further one.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest a registry may have us wait between two tries.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Counts the failures of one request.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failures: u32,
}

impl Retries {
    /// Waits for another try, or gives the error back if none may help.
    pub(super) fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        match self.delay(&error) {
            Some(delay) => {
                self.failures += 1;
                sleep(delay);
                Ok(())
            }
            None => Err(error),
        }
    }

    fn delay(&self, error: &RegistryError) -> Option<Duration> {
        let asked = error.passing()?.unwrap_or_default();
        let delay = (FIRST_DELAY * 2_u32.pow(self.failures.min(MAX_RETRIES))).max(asked);
        (self.failures < MAX_RETRIES && delay <= MAX_DELAY).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(seconds: Option<u64>) -> RegistryError {
        let retry_after = seconds.map(Duration::from_secs);
        RegistryError::TooManyRequests { registry: "registry.example".to_owned(), retry_after }
    }

    #[test]
    fn waits_longer_each_time_and_not_forever() {
        let delays: Vec<_> =
            (0..=MAX_RETRIES).map(|failures| Retries { failures }.delay(&busy(None))).collect();
        assert!(delays.windows(2).all(|pair| pair[1].is_none_or(|later| pair[0].unwrap() < later)));
        assert_eq!(delays.iter().flatten().count(), MAX_RETRIES as usize);
    }

    #[test]
    fn waits_as_long_as_the_registry_asks_unless_that_is_unreasonable() {
        assert_eq!(Retries::default().delay(&busy(Some(7))), Some(Duration::from_secs(7)));
        assert_eq!(Retries::default().delay(&busy(Some(3600))), None);
        assert_eq!(Retries::default().delay(&RegistryError::NoAuthorities), None);
    }
}
