//! Works through topics as a member of a group: poll ▶ dispatch ▶ track ▶ commit.
//!
//! A record is committed only when its handler said Ok, when its dead letter
//! is acknowledged, or when a commit map says it was finished before. What a
//! crash does at each step:
//!
//! | crash | result |
//! |---|---|
//! | after `consumer.polled`, before the handler | nothing happened; it comes again |
//! | after `consumer.handled` (effect done) | it comes again; with the inbox the effect happens once |
//! | after `consumer.tracked`, before the commit | as above, for at most the completions since the last commit |
//! | after `consumer.committed` | it does not come again |
//! | after `consumer.dead_letter_sent` | it comes again, and may be dead-lettered twice |
//! | after `consumer.dead_letter_acked` | the same, until the next commit |
//! | during `consumer.revoking` | the next owner starts at the last commit |
//!
//! ```no_run
//! use homing::consumer::{Consumer, ConsumerOptions, Outcome};
//! use homing::{KafkaConfig, Shutdown};
//! let options = ConsumerOptions::new("billing", ["orders"])?;
//! let consumer = Consumer::new(KafkaConfig::new("localhost:9092"), options)?;
//! let shutdown = Shutdown::new();
//! let summary = consumer.run_blocking(
//!     |record| {
//!         println!("{} {:?}", record.offset(), record.payload());
//!         Outcome::Ok
//!     },
//!     &shutdown,
//! )?;
//! println!("{} finished", summary.counts.finished);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alarm;
mod asynchronous;
mod attempt;
mod begin;
mod blocking;
mod claim;
mod commit;
mod continuity;
pub mod dead_letter;
mod desk;
mod dispatch;
mod error;
mod group;
mod holes;
mod intake;
mod options;
mod outcome;
mod parked;
mod question;
mod report;
mod runtime;
mod share;
mod slots;
mod start;
mod status;
mod topics;
mod watch;

pub use crate::kafka::record::Record;
pub use claim::Context;
pub use error::ConsumerError;
pub use options::{ConsumerOptions, InvalidOptions, SetAside, StartPolicy};
pub use outcome::{BatchOutcome, Outcome};
pub use status::{ConsumerCounts, ConsumerStatus, ConsumerSummary};

use crate::kafka::bell::Bell;
use crate::kafka::config::KafkaConfig;
use crate::kafka::native::Client;
use crate::shutdown::Shutdown;
use attempt::Judge;
use claim::Origin;
use dead_letter::DeadLetters;
use dispatch::Dispatch;
use intake::{Intake, Parts};
use parked::Parked;
use runtime::HandlerRuntime;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A consumer that is set up and not yet running.
#[derive(Debug)]
pub struct Consumer {
    config: KafkaConfig,
    options: ConsumerOptions,
    status: Arc<ConsumerStatus>,
}

impl Consumer {
    /// Checks the settings; talks to nobody yet.
    ///
    /// # Errors
    /// [`ConsumerError::Config`] and [`ConsumerError::Options`] name what does not fit.
    pub fn new(config: KafkaConfig, options: ConsumerOptions) -> Result<Self, ConsumerError> {
        config.validate()?;
        options.validate()?;
        Ok(Self { config, options, status: Arc::default() })
    }

    /// The counters, to be read while it runs and after.
    #[must_use]
    pub fn status(&self) -> Arc<ConsumerStatus> {
        Arc::clone(&self.status)
    }

    /// Runs until `shutdown`, calling the handler for each record on `workers` threads.
    ///
    /// The calling thread becomes the poll thread. A handler may block; one that panics counts
    /// as a failed attempt. A handler that has not returned when the drain deadline passes is
    /// left to itself: its record is not committed and its thread ends when it returns.
    ///
    /// # Errors
    /// [`ConsumerError`] says why it cannot go on. What was finished by then is committed.
    pub fn run_blocking<H>(self, handler: H, shutdown: &Shutdown) -> Result<ConsumerSummary, ConsumerError>
    where
        H: Fn(&Record) -> Outcome + Send + Sync + 'static,
    {
        self.run_threads(blocking::Single(move |record: &Record, _: Origin<'_>| handler(record)), shutdown)
    }

    /// As [`run_blocking`](Self::run_blocking), with a [`Context`] that tells a handler when its
    /// record is no longer this consumer's.
    ///
    /// # Errors
    /// As [`run_blocking`](Self::run_blocking).
    pub fn run_blocking_with<H>(
        self,
        handler: H,
        shutdown: &Shutdown,
    ) -> Result<ConsumerSummary, ConsumerError>
    where
        H: Fn(&Record, &Context) -> Outcome + Send + Sync + 'static,
    {
        let with = move |record: &Record, origin: Origin<'_>| handler(record, &origin.context());
        self.run_threads(blocking::Single(with), shutdown)
    }

    /// As [`run_blocking`](Self::run_blocking), with up to `records_max` records a call.
    ///
    /// A call gets records of distinct lanes, and of one lane all in order: records of one key
    /// never run in two calls at once. It never waits for more records to come.
    ///
    /// # Errors
    /// As [`run_blocking`](Self::run_blocking).
    pub fn run_batches<H>(
        self,
        records_max: usize,
        handler: H,
        shutdown: &Shutdown,
    ) -> Result<ConsumerSummary, ConsumerError>
    where
        H: Fn(&[&Record]) -> BatchOutcome + Send + Sync + 'static,
    {
        self.run_threads(blocking::Batch { handler, records_max: records_max.max(1) }, shutdown)
    }

    /// Runs until `shutdown`, with up to `in_flight_max` async handlers at once.
    ///
    /// The calling thread becomes the poll thread, so call it from a thread of its own, or through
    /// `spawn_blocking`: inside a tokio runtime the handlers run on that runtime, otherwise on
    /// one of `workers` threads that is started here. A handler still running when the drain
    /// deadline passes, or when its partition is lost, is dropped where it awaits; its record is
    /// not committed.
    ///
    /// # Errors
    /// As [`run_blocking`](Self::run_blocking), and [`ConsumerError::RuntimeBlocked`] when called
    /// on the only thread of a `current_thread` runtime.
    pub fn run_async<H, F>(self, handler: H, shutdown: &Shutdown) -> Result<ConsumerSummary, ConsumerError>
    where
        H: Fn(Arc<Record>) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.run_futures(move |record, _| handler(record), shutdown)
    }

    /// As [`run_async`](Self::run_async), with a [`Context`] for what a handler starts beside itself.
    ///
    /// # Errors
    /// As [`run_async`](Self::run_async).
    pub fn run_async_with<H, F>(
        self,
        handler: H,
        shutdown: &Shutdown,
    ) -> Result<ConsumerSummary, ConsumerError>
    where
        H: Fn(Arc<Record>, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.run_futures(move |record, origin| handler(record, origin.context()), shutdown)
    }

    fn run_futures<H, F>(self, handler: H, shutdown: &Shutdown) -> Result<ConsumerSummary, ConsumerError>
    where
        H: Fn(Arc<Record>, Origin<'_>) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (workers, running_max) = (self.options.workers, self.options.in_flight_max);
        let runtime = HandlerRuntime::find(workers)?;
        let (mut intake, judge) = self.open(shutdown)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let drivers = (workers.min(cores), running_max);
        let drivers = asynchronous::start(&runtime.handle(), drivers, handler, &judge, &intake.client);
        let result = runtime.block(|| {
            let result = finish(&mut intake);
            let until = Instant::now() + Duration::from_secs(1);
            while !drivers.iter().all(tokio::task::JoinHandle::is_finished) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            result
        });
        drivers.iter().for_each(tokio::task::JoinHandle::abort);
        runtime.end();
        result
    }

    fn run_threads<W: blocking::Work>(
        self,
        work: W,
        shutdown: &Shutdown,
    ) -> Result<ConsumerSummary, ConsumerError> {
        let count = self.options.workers;
        let (mut intake, judge) = self.open(shutdown)?;
        let threads = match blocking::start(count, work, &judge) {
            Ok(threads) => threads,
            Err(error) => {
                judge.dispatch.stop();
                return Err(ConsumerError::Workers(error.to_string()));
            }
        };
        let result = finish(&mut intake);
        let abandoned = result.as_ref().map_or(1, |summary| summary.abandoned);
        for thread in threads {
            // A handler that never returns would hold the end up; it is left to itself.
            if (abandoned == 0 || thread.is_finished()) && thread.join().is_err() {
                tracing::error!("a worker thread panicked outside its handler");
            }
        }
        result
    }

    fn open(self, shutdown: &Shutdown) -> Result<(Intake, Arc<Judge>), ConsumerError> {
        let Self { config, options, status } = self;
        let mut settings = config.tuned_consumer_config(&options.group)?;
        if let Some(instance) = &options.instance_id {
            settings.set("group.instance.id", instance);
        }
        let poll_interval_ms = settings.get("max.poll.interval.ms").and_then(|ms| ms.parse().ok());
        let poll_interval_max = Duration::from_millis(poll_interval_ms.unwrap_or(300_000));
        let bell = Arc::<Bell>::default();
        let client = Client::open(&settings, Some(Arc::clone(&bell)))?;
        let dispatch = Arc::new(Dispatch::new(Arc::clone(&bell), Arc::clone(&client), options.workers));
        let judge = Arc::new(Judge::new(
            Arc::clone(&dispatch),
            Arc::<Parked>::default(),
            Arc::clone(&status),
            options.retry.clone(),
            options.steps.clone(),
        ));
        let letters = DeadLetters::new(
            (config, options.group.clone()),
            (options.dead_letter.clone(), options.dead_letter_patience),
            Arc::clone(&bell),
            Arc::clone(&status),
            options.steps.clone(),
        );
        let parts = Parts {
            options,
            client,
            bell,
            dispatch,
            judge: Arc::clone(&judge),
            status,
            letters,
            shutdown: shutdown.clone(),
            settings,
            poll_interval_max,
        };
        Ok((Intake::new(parts), judge))
    }
}

/// Runs the poll loop to its end and leaves in good order, whatever ended it.
fn finish(intake: &mut Intake) -> Result<ConsumerSummary, ConsumerError> {
    let result = intake.run();
    let fenced = matches!(&result, Err(ConsumerError::Kafka(_)));
    let summary = intake.stop(!fenced);
    result.map(|()| summary)
}
