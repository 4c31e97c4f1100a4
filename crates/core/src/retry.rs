//! When a failed piece of work is tried again, and when no more.

use std::time::Duration;

/// How often and how fast a failed record is tried again.
///
/// The pause after failure n is `backoff_first * factor^(n-1)`, at most
/// `backoff_max`, less up to the share `jitter` of it, drawn by the caller.
///
/// ```
/// use homing_core::RetryPolicy;
/// use std::time::Duration;
/// let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
/// assert_eq!(policy.delay(1, 0), Some(Duration::from_millis(100)));
/// assert_eq!(policy.delay(2, 0), Some(Duration::from_millis(200)));
/// assert_eq!(policy.delay(10, 0), None);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How often a record is tried in all, the first time included; default 10.
    /// Too low: a short outage parks records. Too high: a bad record blocks its key for long.
    pub attempts_max: u32,
    /// The pause after the first failure; default 100 ms.
    /// Too low: a struggling service is hammered. Too high: a hiccup costs long.
    pub backoff_first: Duration,
    /// The longest pause; default 30 s.
    /// Too low: as above. Too high: work goes on late after an outage.
    pub backoff_max: Duration,
    /// What the pause is multiplied by after each failure, 1 or more; default 2.
    pub factor: f64,
    /// The share of the pause that is random, 0 to 1; default 0.2.
    /// Too low: many records come back in one burst. Too high: pauses hardly grow.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 10,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            factor: 2.0,
            jitter: 0.2,
        }
    }
}

/// A retry policy that contradicts itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidRetryPolicy {
    /// Nothing would ever be tried.
    #[error("attempts_max is 0; it counts the first attempt, so it is 1 or more")]
    NoAttempt,
    /// The longest pause is shorter than the first.
    #[error("backoff_max ({max:?}) is shorter than backoff_first ({first:?})")]
    MaxBelowFirst {
        /// The first pause.
        first: Duration,
        /// The longest pause.
        max: Duration,
    },
    /// Pauses would shrink.
    #[error("factor is {0}; it is a number of 1 or more")]
    Factor(f64),
    /// More than the whole pause would be random.
    #[error("jitter is {0}; it is a share from 0 to 1")]
    Jitter(f64),
}

impl RetryPolicy {
    /// Checks the fields and their relations.
    ///
    /// # Errors
    /// [`InvalidRetryPolicy`] names the fields that do not fit.
    pub fn validate(&self) -> Result<(), InvalidRetryPolicy> {
        if self.attempts_max == 0 {
            return Err(InvalidRetryPolicy::NoAttempt);
        }
        if self.backoff_max < self.backoff_first {
            return Err(InvalidRetryPolicy::MaxBelowFirst {
                first: self.backoff_first,
                max: self.backoff_max,
            });
        }
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(InvalidRetryPolicy::Factor(self.factor));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(InvalidRetryPolicy::Jitter(self.jitter));
        }
        Ok(())
    }

    /// The pause after attempt `attempt` (1, 2 …) has failed; `None` when it was the last.
    ///
    /// `random` is any number drawn evenly from all `u64`. Never panics, even
    /// for a policy that [`validate`](Self::validate) refuses.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Option<Duration> {
        if attempt >= self.attempts_max {
            return None;
        }
        let max = self.backoff_max.as_secs_f64();
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = (self.backoff_first.as_secs_f64() * self.factor.powi(exponent)).min(max);
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        let pause = grown * (1.0 - self.jitter * share);
        Some(Duration::try_from_secs_f64(pause).unwrap_or(self.backoff_max).min(self.backoff_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_field_that_does_not_fit_is_named() {
        let good = RetryPolicy::default();
        assert_eq!(good.validate(), Ok(()));
        let wrong = |change: fn(&mut RetryPolicy)| {
            let mut policy = RetryPolicy::default();
            change(&mut policy);
            policy.validate().unwrap_err().to_string()
        };
        assert!(wrong(|p| p.attempts_max = 0).contains("attempts_max"));
        assert!(wrong(|p| p.backoff_max = Duration::from_millis(1)).contains("backoff_first"));
        assert!(wrong(|p| p.factor = 0.5).contains("factor"));
        assert!(wrong(|p| p.factor = f64::NAN).contains("factor"));
        assert!(wrong(|p| p.jitter = 1.5).contains("jitter"));
        assert!(wrong(|p| p.jitter = f64::NAN).contains("jitter"));
    }

    proptest! {
        #[test]
        fn pauses_grow_within_their_bounds(
            attempts_max in 1u32..50, first_ms in 0u64..5_000, more_ms in 0u64..100_000,
            factor in 1.0f64..10.0, jitter in 0.0f64..=1.0, attempt in 1u32..60, random: u64,
        ) {
            let policy = RetryPolicy {
                attempts_max, factor, jitter,
                backoff_first: Duration::from_millis(first_ms),
                backoff_max: Duration::from_millis(first_ms + more_ms),
            };
            prop_assert_eq!(policy.validate(), Ok(()));
            let pause = policy.delay(attempt, random);
            prop_assert_eq!(pause.is_none(), attempt >= attempts_max);
            if let Some(pause) = pause {
                let full = policy.delay(attempt, 0).unwrap();
                prop_assert!(pause <= full && full <= policy.backoff_max && full >= policy.backoff_first);
                prop_assert!(pause.as_secs_f64() >= full.as_secs_f64() * (1.0 - jitter) - 1e-6);
                if let Some(next) = policy.delay(attempt + 1, 0) {
                    prop_assert!(next >= full);
                }
            }
        }

        #[test]
        fn no_policy_makes_it_panic(
            attempts_max: u32, first: Duration, max: Duration, factor: f64, jitter: f64, attempt: u32, random: u64,
        ) {
            let policy = RetryPolicy { attempts_max, backoff_first: first, backoff_max: max, factor, jitter };
            let pause = policy.delay(attempt, random);
            prop_assert!(pause.is_none_or(|pause| pause <= max));
        }
    }
}
