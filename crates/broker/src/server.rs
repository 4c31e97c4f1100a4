//! Starts and stops a broker: its directory, its threads, its listener.

use crate::catalog::Catalog;
use crate::connection;
use crate::connections::{Connections, Limits};
use crate::descriptors;
use crate::faults::Faults;
use crate::groups::{Coordinator, JournalOptions};
use crate::log::flusher::Flusher;
use crate::log::{Buffers, LogContext, OnDamage, OpenSegments};
use crate::options::BrokerOptions;
use crate::state::{DISK_TURNS, State, now_ms};
use crate::trouble::{Trouble, Troubles};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

/// How long open requests may finish at a clean stop.
const DRAIN: Duration = Duration::from_millis(200);

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Another process serves this directory.
    #[error("{}: another broker is at work here", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be used.
    #[error("{}: {error}", dir.display())]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// What the file system said.
        error: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Two options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The system gives no more threads.
    #[error("cannot start the broker's threads: {0}")]
    Threads(io::Error),
}

/// The way to a running broker.
pub struct Broker;

/// A broker at work; dropping it stops it cleanly.
#[derive(Debug)]
pub struct RunningBroker {
    state: Arc<State>,
    flusher: Flusher,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
    sync_threads: Vec<JoinHandle<()>>,
    /// Holds the directory's lock until everything is written.
    _lock: File,
}

impl Broker {
    /// Starts a broker; it serves when this returns. Needs no runtime around it.
    ///
    /// # Errors
    /// [`BrokerError`] names the directory or address and what is wrong with it.
    pub fn start(options: BrokerOptions) -> Result<RunningBroker, BrokerError> {
        options.validate().map_err(BrokerError::Options)?;
        let dir = options.dir.clone();
        let in_dir = |error| BrokerError::Dir { dir: dir.clone(), error };
        std::fs::create_dir_all(&dir).map_err(in_dir)?;
        let lock = lock(&dir)?;
        if let Err(error) = descriptors::raise_limit() {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
        let troubles = Troubles::default();
        let flusher = Flusher::default();
        let context = LogContext {
            flusher: flusher.clone(),
            flush: options.flush,
            leader_epoch: 0,
            on_damage: if options.truncate_corrupted { OnDamage::Truncate } else { OnDamage::Refuse },
            buffers: Buffers::default(),
            open_segments: OpenSegments::default(),
            troubles: troubles.clone(),
        };
        let catalog = Catalog::open(&dir, context).map_err(in_dir)?;
        let journal =
            JournalOptions { troubles, ..JournalOptions::new(dir.join("groups.journal"), options.flush) };
        let groups = Arc::new(Coordinator::open(options.groups.clone(), journal).map_err(in_dir)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("broker")
            .enable_all()
            .build()
            .map_err(BrokerError::Threads)?;
        let address = options.listen;
        let cannot_listen = |error| BrokerError::Listen { address, error };
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let sync_threads = flusher.start(options.sync_threads.max(1));
        let limits = Limits {
            connections: options.connections_max,
            per_address: options.connections_per_address_max,
            held_bytes: options.held_bytes_max,
        };
        let state = Arc::new(State {
            connections: Arc::new(Connections::new(limits)),
            disk: Semaphore::new(DISK_TURNS),
            faults: Arc::new(Faults::default()),
            options,
            address,
            catalog,
            groups,
        });
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(accept(listener, Arc::clone(&state), stopped.clone()));
        runtime.spawn(keep_retention(Arc::clone(&state), stopped.clone()));
        let clock = Arc::clone(&state.groups);
        runtime.spawn(async move { clock.run_clock(until_stopped(stopped)).await });
        Ok(RunningBroker { state, flusher, stop, runtime: Some(runtime), sync_threads, _lock: lock })
    }
}

impl RunningBroker {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.state.address
    }

    /// The cluster's id: given at the first start, the same ever after.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        self.state.catalog.cluster_id()
    }

    /// What its disk refuses right now: full, no descriptors left, partitions not served.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        self.state.catalog.troubles().all()
    }

    /// Faults to inject, for tests.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Stops cleanly: open requests get a moment to finish, everything is synced.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for RunningBroker {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(DRAIN);
        }
        self.flusher.stop();
        for thread in self.sync_threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a syncing thread of the broker panicked");
            }
        }
        for log in self.state.catalog.logs() {
            log.close();
        }
    }
}

/// Takes the directory for this process; freed by the kernel at any end of it.
fn lock(dir: &Path) -> Result<File, BrokerError> {
    let in_dir = |error| BrokerError::Dir { dir: dir.to_owned(), error };
    let file = File::create(dir.join("lock")).map_err(in_dir)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BrokerError::InUse { dir: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(error)) => Err(in_dir(error)),
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn accept(listener: TcpListener, state: Arc<State>, stopped: watch::Receiver<bool>) {
    let mut connections = tokio::task::JoinSet::new();
    let until = until_stopped(stopped.clone());
    tokio::pin!(until);
    loop {
        let accepted = tokio::select! {
            () = &mut until => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = state.connections.enter(peer) else { continue };
                let (state, until) = (Arc::clone(&state), until_stopped(stopped.clone()));
                connections.spawn(connection::serve(state, stream, peer, seat, until));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; a silent one is ended for it");
                state.connections.end_one_idle();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn keep_retention(state: Arc<State>, stopped: watch::Receiver<bool>) {
    let until = until_stopped(stopped);
    tokio::pin!(until);
    let producers_ms = i64::try_from(state.options.producer_id_expiration.as_millis()).unwrap_or(i64::MAX);
    loop {
        tokio::select! {
            () = &mut until => return,
            () = tokio::time::sleep(state.options.retention_check) => {}
        }
        for log in state.catalog.logs() {
            tokio::task::block_in_place(|| log.apply_retention(now_ms(), producers_ms));
        }
    }
}
