//! What requests may cost together: a bucket of units that fills at a steady rate.
//!
//! Behind a relay all callers look alike, so there is one bucket for all of them: it keeps the machine for the work that
//! matters, not one caller from another. Documents for verifiers are not paid from it; they are bounded by their queue, and
//! one of them serves any number.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ApiError;

/// One unit is about a tenth of a millisecond of somebody's time: of a processor, or of the NSM.
#[derive(Debug)]
pub(crate) struct Budget {
    capacity: u32,
    per_second: u32,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    units: f64,
    filled: Instant,
}

impl Budget {
    /// A full bucket of `capacity` units that gets `per_second` new ones.
    pub(crate) fn new(capacity: u32, per_second: u32) -> Self {
        let bucket = Bucket { units: capacity.into(), filled: Instant::now() };
        Self { capacity, per_second, bucket: Mutex::new(bucket) }
    }

    /// Takes `cost` units.
    ///
    /// # Errors
    /// [`ApiError::TooMuch`] when there are not as many, with the time until there are.
    pub(crate) fn spend(&self, cost: u32) -> Result<(), ApiError> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.duration_since(bucket.filled).as_secs_f64() * f64::from(self.per_second);
        bucket.units = (bucket.units + gained).min(self.capacity.into());
        bucket.filled = now;
        let lacking = f64::from(cost) - bucket.units;
        if lacking > 0.0 {
            let seconds = lacking / f64::from(self.per_second.max(1));
            return Err(ApiError::TooMuch { again_in: Duration::from_secs_f64(seconds) });
        }
        bucket.units -= f64::from(cost);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_spent_comes_back_with_time_and_no_more_than_fits() {
        let budget = Budget::new(10, 2);
        budget.spend(10).unwrap();
        let Err(ApiError::TooMuch { again_in }) = budget.spend(4) else { panic!("nothing is left") };
        assert_eq!(again_in, Duration::from_secs(2));
        tokio::time::advance(again_in).await;
        budget.spend(4).unwrap();
        budget.spend(1).unwrap_err();
        tokio::time::advance(Duration::from_secs(3600)).await;
        budget.spend(10).unwrap();
        budget.spend(1).unwrap_err();
    }
}
