//! One cluster for a whole test binary.
#![allow(unsafe_code)]

use super::{Cluster, ClusterOptions};
use std::sync::{Mutex, OnceLock, PoisonError};

static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

impl Cluster {
    /// Three plain nodes for all tests of this process, started by the first that asks.
    ///
    /// Give each test its own topics and groups, and leave every node running.
    ///
    /// # Panics
    /// When it does not start; every test that asks hears the reason.
    pub fn shared() -> &'static Self {
        Self::shared_as(ClusterOptions::default())
    }

    /// The same, as `options` say: a test binary gives the same ones each time, for the first that
    /// asks decides.
    ///
    /// # Panics
    /// When it does not start; every test that asks hears the reason.
    pub fn shared_as(options: ClusterOptions) -> &'static Self {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = SHARED.get_or_init(|| {
            let cluster = Self::start(options).map_err(|error| error.to_string());
            // SAFETY: `end` is an ordinary function, and nobody unwinds out of it.
            unsafe { libc::atexit(end) };
            cluster
        });
        shared.as_ref().unwrap_or_else(|reason| panic!("no shared Kafka cluster: {reason}"))
    }
}

/// Statics are not dropped: at the process's orderly end the nodes and their
/// directory go here. A disorderly end leaves the nodes to the kernel and the
/// directory to the next cluster.
extern "C" fn end() {
    let Some(Ok(cluster)) = SHARED.get() else { return };
    let ended = cluster.nodes().iter().all(|node| node.kill().is_ok());
    if ended && std::env::var_os("HOMING_KEEP_CLUSTER").is_none() {
        // Nobody is left to hear of it; the next cluster removes what remains.
        let _ = std::fs::remove_dir_all(cluster.dir());
    }
}
