//! The relay: claim ▶ manifest ▶ send ▶ settle, and what a crash does at each step.
//!
//! | crash | what the next owner does |
//! |---|---|
//! | before the manifest's commit | nothing was sent; it reads and numbers the rows again |
//! | after the manifest, while sending | computes the same rows and seqs from the manifest, reads the partitions' tails from the last settled offset, sends what is not there with the same seqs |
//! | all acknowledged, not settled | finds all in the tails and settles |
//! | a paused relay wakes up after a takeover | its commits fail on the fencing token; its records carry seqs that were given once and are recognised |
//! | the broker is down | the relay waits; rows stay; business transactions go on |
//!
//! One thread owns the outbox ([`Relay::run`]'s), one reads ahead. Under load
//! one commit settles what is complete and claims the next batch, while up to
//! [`RelayOptions::batches_in_flight_max`] batches are under way.

mod error;
mod flight;
mod last_epoch;
mod obstacle;
mod options;
mod pins;
mod plan;
mod reading;
mod recovery;
mod repair;
mod sending;
mod session;
mod settling;
mod status;
mod topics;
mod waiting;

pub use error::RelayError;
pub(crate) use obstacle::code_of;
pub use options::{InvalidRelayOptions, PruneOptions, RelayOptions};
pub use status::{RelayStatus, RelaySummary, Trouble};

use crate::kafka::config::KafkaConfig;
use crate::liveness;
use crate::outbox::store::{Holder, Store};
use crate::outbox::{OutboxError, SqliteOutbox};
use crate::shutdown::Shutdown;
use error::Halt;
use homing_core::{FencingToken, LeaseDecision, LeaseWatch};
use session::{Ground, Session, now_ms};
use status::Count;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sends an outbox's messages to Kafka; blocks the thread it runs on.
///
/// Only one relay works on an outbox at a time; others started on it wait
/// until its lease ends, or at once when its process on the same host is dead.
pub struct Relay {
    store: Box<dyn Store>,
    kafka: KafkaConfig,
    options: RelayOptions,
    status: Arc<RelayStatus>,
}

impl Relay {
    /// A relay for a SQLite outbox; checks all settings.
    ///
    /// # Errors
    /// [`RelayError`] for settings that cannot be used, or when the outbox cannot be opened.
    pub fn new(outbox: SqliteOutbox, kafka: KafkaConfig, options: RelayOptions) -> Result<Self, RelayError> {
        Self::with_store(Box::new(outbox.store()?), kafka, options)
    }

    /// A relay for any store.
    ///
    /// # Errors
    /// [`RelayError`] for settings that cannot be used.
    pub fn with_store(
        store: Box<dyn Store>,
        kafka: KafkaConfig,
        options: RelayOptions,
    ) -> Result<Self, RelayError> {
        options.validate()?;
        kafka.validate()?;
        Ok(Self { store, kafka, options, status: Arc::default() })
    }

    /// The relay's live counters and trouble.
    #[must_use]
    pub fn status(&self) -> Arc<RelayStatus> {
        Arc::clone(&self.status)
    }

    /// Relays until `shutdown`, then drains: takes no more rows, waits for
    /// acknowledgements up to the drain timeout, settles, and gives the outbox
    /// back. What is not acknowledged then stays unsettled: safe, the next owner's.
    ///
    /// A broker that is away, a full disk, a busy database are waited for. A
    /// relay that loses its lease stops all work under it and waits for its turn.
    ///
    /// # Errors
    /// [`RelayError`] for what waiting does not mend: another cluster, a
    /// deleted or recreated topic, an outbox that contradicts itself.
    pub fn run(mut self, shutdown: &Shutdown) -> Result<RelaySummary, RelayError> {
        let mut backoff = Duration::from_millis(20);
        while !shutdown.is_triggered() {
            let Some(token) = self.acquire(shutdown)? else { break };
            let started = Instant::now();
            let ended = self.own(token, shutdown);
            match ended {
                Ok(()) | Err(Halt::Stopped) => {
                    self.give_back(token);
                    break;
                }
                Err(Halt::Fenced) => {
                    tracing::warn!(stream = %self.store.stream(), "another relay took this outbox over");
                    self.status.add(Count::Fenced, 1);
                }
                Err(Halt::Restart(error)) => {
                    tracing::warn!(%error, "it is not known whether a commit happened; starting over");
                    self.give_back(token);
                }
                Err(Halt::Wait(why)) => {
                    self.status.set_trouble(Some(&why));
                    self.give_back(token);
                }
                Err(Halt::Error(error)) => {
                    self.note_and_give_back(token, &error);
                    return Err(error);
                }
            }
            if started.elapsed() > Duration::from_secs(5) {
                backoff = Duration::from_millis(20);
            }
            // Whether it was triggered is the loop's condition.
            let _triggered = shutdown.wait(backoff);
            backoff = (backoff * 2).min(self.options.retry_max);
        }
        Ok(self.status.summary())
    }

    fn own(&mut self, token: FencingToken, shutdown: &Shutdown) -> Result<(), Halt> {
        self.options.steps.reached("relay.claimed");
        let ground = Ground {
            store: &mut *self.store,
            kafka: &self.kafka,
            options: &self.options,
            status: &self.status,
            shutdown,
            token,
        };
        Session::new(ground)?.run()
    }

    /// Waits for ownership; `None` when asked to stop before.
    fn acquire(&mut self, shutdown: &Shutdown) -> Result<Option<FencingToken>, RelayError> {
        let me = liveness::this_process("relay");
        let lease_ms = i64::try_from(self.options.lease.as_millis()).unwrap_or(i64::MAX / 2);
        let watch = RefCell::new(LeaseWatch::default());
        let began = Instant::now();
        let alive = |holder: &Holder| {
            let waited_ms = began.elapsed().as_millis() as u64;
            let unchanged = watch.borrow_mut().unchanged_for(&holder.lease, waited_ms, lease_ms as u64);
            let known = liveness::alive(&holder.owner);
            if unchanged && known != Some(true) { Some(false) } else { known }
        };
        loop {
            match self.store.acquire(&me, now_ms(), lease_ms, &alive) {
                Ok(LeaseDecision::Acquire(token) | LeaseDecision::Renew(token)) => {
                    self.status.set_trouble(None);
                    return Ok(Some(token));
                }
                Ok(LeaseDecision::Wait { .. } | LeaseDecision::Lost) => {
                    let holder = self.store.holder().ok().flatten().map(|holder| holder.owner.name);
                    let holder = holder.unwrap_or_else(|| "another relay".to_owned());
                    self.status.set_trouble(Some(&format!("standing by: {holder} relays this outbox")));
                }
                Err(error) if error.retry() == crate::Retry::Never => return Err(error.into()),
                Err(error) => self.status.set_trouble(Some(&error.to_string())),
            }
            let pause =
                (self.options.lease / 10).clamp(Duration::from_millis(10), Duration::from_millis(250));
            if shutdown.wait(pause) {
                return Ok(None);
            }
        }
    }

    fn give_back(&mut self, token: FencingToken) {
        match self.store.release(token) {
            Ok(()) | Err(OutboxError::Fenced { .. }) => {}
            // The lease ends by itself.
            Err(error) => tracing::debug!(%error, "the lease was not given back"),
        }
    }

    fn note_and_give_back(&mut self, token: FencingToken, error: &RelayError) {
        let text = error.to_string();
        self.status.set_trouble(Some(&text));
        if let Err(error) = self.store.note_trouble(token, Some(&text), now_ms()) {
            tracing::debug!(%error, "the note on why the relay stopped was not written");
        }
        self.give_back(token);
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("stream", self.store.stream()).field("status", &self.status).finish()
    }
}
