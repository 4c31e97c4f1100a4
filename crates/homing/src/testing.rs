//! Hooks for crash tests: a part reports each step it reaches, a test may stop it there.

use std::fmt;
use std::sync::Arc;

/// Tells an observer each crash-relevant step of a relay or consumer.
///
/// Without an observer (the default) a report costs one branch. A crash test
/// installs an observer that kills its own process at the step under test.
///
/// ```
/// use homing::testing::Steps;
/// use std::sync::{Arc, Mutex};
/// let seen = Arc::new(Mutex::new(Vec::new()));
/// let log = seen.clone();
/// let steps = Steps::observed_by(move |step| log.lock().unwrap().push(step));
/// steps.reached("relay.claimed");
/// assert_eq!(*seen.lock().unwrap(), ["relay.claimed"]);
/// ```
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl Steps {
    /// Calls `observer` at every step, on the thread that reached it.
    pub fn observed_by(observer: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    /// Reports that `step` is reached: everything before it is done, nothing after it has begun.
    #[inline]
    pub fn reached(&self, step: &'static str) {
        if let Some(observer) = &self.0 {
            observer(step);
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Steps(observed)" } else { "Steps(unobserved)" })
    }
}
