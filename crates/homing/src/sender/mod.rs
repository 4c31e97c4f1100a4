//! Sending single messages, with a receipt: synchronously, with a callback, or as a future.
//!
//! Every message goes through the outbox first: once [`Sender`] has stored it,
//! it will be delivered whatever happens to this process, and the receipt only
//! tells when and where. Messages of many threads are stored in one commit.
//!
//! | thread | does |
//! |---|---|
//! | writer | takes waiting messages, stores them in one transaction |
//! | watcher | learns which rows are settled, completes their sends |
//! | relay (optional) | sends the outbox from this process |
//!
//! A message that joins a business transaction is [`Outbox::enqueue`](crate::Outbox::enqueue)'s.

mod completion;
mod watcher;
mod writer;

pub use completion::SendFuture;

use crate::error::Retry;
use crate::kafka::config::KafkaConfig;
use crate::outbox::{MessageError, OutboxError, Receipt, RowId, SqliteOutbox, check};
use crate::relay::{Relay, RelayError, RelayOptions, RelayStatus};
use crate::shutdown::Shutdown;
use completion::{Completion, future};
use homing_core::Message;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watcher::{Places, Watch, Watcher};
use writer::{Job, Writer};

/// How a [`Sender`] works.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// Runs a relay in this process; default none: another process relays the
    /// outbox (`homing run`). It stands by while another relay owns the outbox.
    pub relay: Option<(KafkaConfig, RelayOptions)>,
    /// Messages that may wait to be stored; default 10 000. When it is full,
    /// sends wait up to `send_timeout`: back-pressure, not loss.
    pub queue_max: usize,
    /// Messages that may be without a receipt, those waiting to be stored included; default
    /// 100 000. When there are so many, sends wait up to `send_timeout`. Too low: bounds the rate
    /// at (this / time to a receipt). Too high: memory, while Kafka is away.
    pub pending_max: usize,
    /// Messages stored in one commit; default 1000. More raises throughput and
    /// the time the database is locked.
    pub group_max: usize,
    /// How long a send waits for a place in the queue, and [`Sender::send`] for all there is to
    /// wait for, the receipt included; default 30 s. A message that was stored by then is in the
    /// outbox and will be delivered.
    pub send_timeout: Duration,
    /// The longest pause between two looks for receipts when the relay is
    /// another process; default 20 ms.
    pub poll_max: Duration,
    /// How long [`Sender::close`] waits for receipts; default 10 s.
    pub close_timeout: Duration,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self {
            relay: None,
            queue_max: 10_000,
            pending_max: 100_000,
            group_max: 1000,
            send_timeout: Duration::from_secs(30),
            poll_max: Duration::from_millis(20),
            close_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a send has no receipt; [`retry`](Self::retry) says whether sending again would double it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// The message itself cannot be taken; it was not stored.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The outbox did not take it.
    #[error("the message was not stored: {0}")]
    NotStored(Arc<OutboxError>),
    /// There was no place for it within the timeout: too many messages are without a receipt, or
    /// wait to be stored. It was not stored.
    #[error("no place within {timeout:?}, as {pending} messages are without a receipt; not stored")]
    Full {
        /// The time waited.
        timeout: Duration,
        /// Messages under way then.
        pending: usize,
    },
    /// It was stored and then set aside: it is in the dead-letter table.
    #[error("row {row} was set aside ({code}): {reason}")]
    DeadLetter {
        /// Its row.
        row: RowId,
        /// Why, for programs.
        code: String,
        /// Why, for people.
        reason: String,
    },
    /// No receipt within the timeout; it is stored and will be delivered.
    #[error("row {row} is stored and will be delivered, but not within {timeout:?}")]
    TimedOut {
        /// Its row: ask [`SqliteOutbox::receipt`] later.
        row: RowId,
        /// The time waited.
        timeout: Duration,
    },
    /// No answer within the timeout, not even that it was stored.
    #[error("the outbox did not answer within {timeout:?}; the message may be stored later")]
    Slow {
        /// The time waited.
        timeout: Duration,
    },
    /// It is stored, but this process's relay stopped for good.
    #[error("row {row} is stored, but the relay stopped: {error}")]
    RelayStopped {
        /// Its row.
        row: RowId,
        /// Why the relay stopped.
        error: Arc<RelayError>,
    },
    /// The sender was closed before the receipt came; it is stored and will be delivered.
    #[error("the sender was closed; row {row} is stored and will be delivered")]
    ClosedStored {
        /// Its row.
        row: RowId,
    },
    /// The sender is closed; the message was not stored.
    #[error("the sender is closed; the message was not stored")]
    Closed,
    /// The row was delivered and pruned before its receipt was read.
    #[error("row {row} is settled, but its receipt was pruned already")]
    ReceiptGone {
        /// Its row.
        row: RowId,
    },
}

impl SendError {
    /// Whether the same message may be sent again without doubling it.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotStored(error) => error.retry(),
            Self::Closed | Self::Full { .. } => Retry::Later,
            Self::Message(_) | Self::DeadLetter { .. } => Retry::Never,
            Self::TimedOut { .. }
            | Self::Slow { .. }
            | Self::RelayStopped { .. }
            | Self::ClosedStored { .. }
            | Self::ReceiptGone { .. } => Retry::Indeterminate,
        }
    }
}

/// Sends messages durably and tells where they went.
///
/// ```no_run
/// use homing::sender::{Sender, SenderOptions};
/// use homing::{KafkaConfig, Message, RelayOptions, SqliteOutbox, StreamName};
/// let outbox = SqliteOutbox::create("shop.db", &StreamName::parse("shop")?)?;
/// let relay = Some((KafkaConfig::new("localhost:9092"), RelayOptions::default()));
/// let sender = Sender::open(outbox, SenderOptions { relay, ..SenderOptions::default() })?;
/// let receipt = sender.send(Message::new("orders")?.key("42").payload("{}"))?;
/// println!("{}[{}] at {}", receipt.topic, receipt.partition, receipt.offset);
/// sender.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sender {
    places: Places,
    jobs: Option<SyncSender<Job>>,
    options: SenderOptions,
    watch: Watch,
    threads: Vec<JoinHandle<()>>,
    relay: Option<InProcessRelay>,
}

struct InProcessRelay {
    shutdown: Shutdown,
    status: Arc<RelayStatus>,
    thread: JoinHandle<()>,
}

impl Sender {
    /// Starts sending through `outbox`.
    ///
    /// # Errors
    /// [`OutboxError`] when the database cannot be opened, [`RelayError`] for a
    /// relay's settings that cannot be used.
    pub fn open(outbox: SqliteOutbox, options: SenderOptions) -> Result<Self, RelayError> {
        let stopped: Arc<OnceLock<Arc<RelayError>>> = Arc::default();
        let relay = match &options.relay {
            None => None,
            Some((kafka, relay)) => {
                let relay = Relay::new(outbox.clone(), kafka.clone(), relay.clone())?;
                Some(start_relay(relay, &stopped, outbox.signals().settled.clone())?)
            }
        };
        let watch = Watch::default();
        let watcher = Watcher::new(&outbox, watch.clone(), stopped, options.poll_max)?;
        let places = Places { queue_max: options.queue_max.max(1), pending_max: options.pending_max.max(1) };
        let (jobs, waiting) = sync_channel(places.queue_max);
        let writer = Writer::new(&outbox, waiting, watch.clone(), options.group_max.max(1))?;
        let threads =
            vec![spawn("homing-send-write", || writer.run())?, spawn("homing-send-watch", || watcher.run())?];
        Ok(Self { jobs: Some(jobs), places, options, watch, threads, relay })
    }

    /// Stores a message and waits until it is delivered.
    ///
    /// # Errors
    /// [`SendError`]; ask its [`retry`](SendError::retry) before sending again.
    pub fn send(&self, message: Message) -> Result<Receipt, SendError> {
        let (done, result) = sync_channel(1);
        let row: Arc<OnceLock<RowId>> = Arc::default();
        let callback = Box::new(move |result| {
            // Nobody waits any more after a timeout.
            drop(done.send(result));
        });
        let timeout = self.options.send_timeout;
        let until = Instant::now() + timeout;
        self.hand_over(message, Completion::new(callback, Some(Arc::clone(&row))))?;
        match result.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(match row.get() {
                Some(row) => SendError::TimedOut { row: *row, timeout },
                None => SendError::Slow { timeout },
            }),
            Err(RecvTimeoutError::Disconnected) => Err(SendError::Closed),
        }
    }

    /// Stores a message and calls `done` when it is delivered or cannot be.
    ///
    /// Waits only for a place, up to the send timeout. `done` runs on a thread of the
    /// sender's and should be short: while it waits, for a place too, no receipts come.
    /// Messages of one thread are stored in the order of the calls.
    ///
    /// # Errors
    /// [`SendError`] when the message was not taken; `done` is not called then.
    pub fn send_with(
        &self,
        message: Message,
        done: impl FnOnce(Result<Receipt, SendError>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.hand_over(message, Completion::new(Box::new(done), None))
    }

    /// Stores a message; the future is ready when it is delivered or cannot be.
    ///
    /// The message is taken by the call, not by the first poll; this call waits
    /// for a place, up to the send timeout.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the receipt, not the message.
    pub fn send_async(&self, message: Message) -> SendFuture {
        let (completion, future) = future();
        if let Err((error, completion)) = self.try_hand_over(message, completion) {
            completion.complete(Err(error));
        }
        future
    }

    fn hand_over(&self, message: Message, completion: Completion) -> Result<(), SendError> {
        self.try_hand_over(message, completion).map_err(|(error, completion)| {
            completion.forget();
            error
        })
    }

    #[allow(clippy::result_large_err)]
    fn try_hand_over(&self, message: Message, completion: Completion) -> Result<(), (SendError, Completion)> {
        let headers = match check(&message) {
            Ok(headers) => headers,
            Err(error) => return Err((error.into(), completion)),
        };
        let Some(jobs) = &self.jobs else { return Err((SendError::Closed, completion)) };
        let timeout = self.options.send_timeout;
        if !self.watch.admit(self.places, Instant::now() + timeout) {
            return Err((SendError::Full { timeout, pending: self.watch.pending() }, completion));
        }
        // Never waits: the queue has a place for each that was admitted.
        jobs.send(Job { message, headers, completion }).map_err(|refused| {
            self.watch.withdraw();
            (SendError::Closed, refused.0.completion)
        })
    }

    /// Messages taken and not yet completed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.watch.pending()
    }

    /// The live status of the relay in this process, if there is one.
    #[must_use]
    pub fn relay_status(&self) -> Option<Arc<RelayStatus>> {
        self.relay.as_ref().map(|relay| Arc::clone(&relay.status))
    }

    /// Takes no more messages, waits for receipts up to the close timeout, and
    /// stops the relay of this process. What is stored by then and has no
    /// receipt ends with [`SendError::ClosedStored`]; it will be delivered.
    pub fn close(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        if self.jobs.take().is_none() {
            return;
        }
        self.watch.close(self.options.close_timeout);
        for thread in self.threads.drain(..) {
            // A panic over there has been printed by its thread.
            drop(thread.join());
        }
        if let Some(relay) = self.relay.take() {
            relay.shutdown.trigger();
            drop(relay.thread.join());
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shut();
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("pending", &self.pending()).finish_non_exhaustive()
    }
}

fn start_relay(
    relay: Relay,
    stopped: &Arc<OnceLock<Arc<RelayError>>>,
    bell: crate::outbox::signals::Bell,
) -> Result<InProcessRelay, RelayError> {
    let (shutdown, status) = (Shutdown::new(), relay.status());
    let (stop, stopped) = (shutdown.clone(), Arc::clone(stopped));
    let thread = spawn("homing-relay", move || {
        if let Err(error) = relay.run(&stop) {
            tracing::error!(%error, "the relay stopped");
            // Set once: this thread is the only one that does.
            stopped.get_or_init(|| Arc::new(error));
            bell.ring();
        }
    })?;
    Ok(InProcessRelay { shutdown, status, thread })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RelayError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(RelayError::Thread)
}
