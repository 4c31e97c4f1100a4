//! What every test of the suite starts from: a cluster, clients on it, and waiting.

mod clients;
mod served;
mod target;

pub use clients::{Admin, Group, Producer, Record, Step, headers, only, owned_offsets, places};
pub use served::{Serve, Served};
pub use target::{Target, embedded_broker};

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Tries `attempt` until it gives a value; panics with `what` when it does not in time.
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
