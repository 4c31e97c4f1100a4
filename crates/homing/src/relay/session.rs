//! One ownership of an outbox from its first look to its last settle: the relay's loop.
//!
//! Everything runs on the caller's thread but reading, which has its own. A turn
//! of the loop takes delivery reports, settles what is complete, claims the next
//! batch and sends it. A step that cannot be done now returns [`Halt::Wait`]
//! and is tried again: each step changes memory only after the database did.

use super::error::{Halt, RelayError};
use super::flight::Flight;
use super::obstacle::{code_of, describe};
use super::options::RelayOptions;
use super::pins::PinWatch;
use super::plan::Plan;
use super::reading::{ReadBatch, Reading, WakeUp};
use super::repair::Repairs;
use super::status::{Count, RelayStatus};
use super::topics::Topics;
use super::waiting::Waiting;
use crate::kafka::admin::Admin;
use crate::kafka::config::KafkaConfig;
use crate::kafka::native::most_telling;
use crate::kafka::producer::{Producer, Report};
use crate::outbox::numbering::number;
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{BatchId, Store};
use crate::shutdown::Shutdown;
use homing_core::{FencingToken, TopicName};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a session is given.
pub(super) struct Ground<'a> {
    pub store: &'a mut dyn Store,
    pub kafka: &'a KafkaConfig,
    pub options: &'a RelayOptions,
    pub status: &'a RelayStatus,
    pub shutdown: &'a Shutdown,
    pub token: FencingToken,
}

/// Why the producer has to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is none yet: a new owner.
    Takeover,
    /// Something failed that a new producer mends.
    Producer,
    /// A record was refused; find out which one.
    Refused,
}

/// How the present producer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Many records a request.
    Together,
    /// One record a request, to find those the broker refuses.
    Isolated,
}

pub(super) struct Session<'a> {
    pub ground: Ground<'a>,
    pub admin: Admin,
    pub topics: Topics,
    pub flights: VecDeque<Flight>,
    /// The number of the first flight; with the row it is a record's tag.
    pub first_flight: u32,
    pub next_batch: BatchId,
    pub producer: Option<Producer>,
    pub mode: Mode,
    /// The most bytes the producer groups together.
    pub group_bytes_max: usize,
    /// Records handed over and not reported.
    pub outstanding: usize,
    pub failure: Option<Failure>,
    pub pins: PinWatch,
    pub repairs: Repairs,
    pub wake_up: WakeUp,
    reading: Option<Reading>,
    next: Option<ReadBatch>,
    pub drain_until: Option<Instant>,
    renew_at: Instant,
    /// Producers made since the last acknowledgement.
    pub fruitless: u32,
    pub waiting: Waiting,
    /// Topics never written to that Kafka did not show, and since when.
    pub doubtful: HashMap<TopicName, Instant>,
}

/// Tags of repairs' records have this bit; those of flights never do.
pub(super) const REPAIR_TAG: usize = 1 << 63;

impl<'a> Session<'a> {
    pub fn new(ground: Ground<'a>) -> Result<Self, Halt> {
        let standing = ground.store.standing()?;
        let topics = Topics::new(&standing);
        let fingerprint = ground.kafka.fingerprint();
        let admin = Admin::open(ground.kafka, ground.options.request_timeout)?;
        let mut flights = VecDeque::new();
        for batch in ground.store.unsettled_batches(None, usize::MAX)? {
            let manifest = batch.manifest.only(&batch.unsettled);
            let mut rows = RowBuf::default();
            ground.store.read_batch(&manifest, &mut rows)?;
            let inconsistent = |what: String| {
                let operation = "number an unsettled batch again";
                Halt::from(crate::outbox::OutboxError::Inconsistent { operation, what })
            };
            let numbers = number(&rows, &manifest, |part| topics.partitions(&part.topic, part.epoch))
                .map_err(|misfit| inconsistent(misfit.to_string()))?;
            let places = topics
                .places(&manifest)
                .ok_or_else(|| inconsistent(format!("batch {} is of a closed epoch", manifest.batch)))?;
            flights.push_back(Flight::new(Plan { manifest, numbers, places }, rows, true));
        }
        let wake_up = WakeUp::default();
        let reader = ground.store.reader(standing.claimed_through)?;
        let bell = ground.store.signals().enqueued;
        let reading = Reading::start(reader, ground.options, bell, wake_up.clone())?;
        let renew_at = Instant::now() + ground.options.lease / 3;
        Ok(Self {
            admin,
            topics,
            flights,
            first_flight: 1,
            next_batch: standing.next_batch,
            producer: None,
            mode: Mode::Together,
            group_bytes_max: 0,
            outstanding: 0,
            failure: Some(Failure::Takeover),
            pins: PinWatch::new(standing.cluster_id),
            repairs: Repairs::new(ground.options),
            wake_up,
            reading: Some(reading),
            next: None,
            drain_until: None,
            renew_at,
            fruitless: 0,
            waiting: Waiting::new(fingerprint),
            doubtful: HashMap::new(),
            ground,
        })
    }

    /// Works until asked to stop and drained.
    pub fn run(&mut self) -> Result<(), Halt> {
        loop {
            match self.turn() {
                Ok(true) => return Ok(()),
                Ok(false) => self.waiting.hindered = false,
                Err(Halt::Wait(why)) => self.hindered(&why)?,
                Err(halt) => return Err(halt),
            }
        }
    }

    /// One turn of the loop; true when asked to stop and nothing is under way.
    fn turn(&mut self) -> Result<bool, Halt> {
        let stopping = self.stopping();
        if stopping && self.flights.is_empty() {
            return Ok(true);
        }
        self.go_on()?;
        if self.failure.is_some() {
            self.recover()?;
        }
        self.look_at_pins()?;
        if self.next.is_none() && !stopping {
            self.next = self.reading.as_ref().map_or(Ok(None), Reading::take)?;
            if self.next.is_some() {
                self.ground.options.steps.reached("relay.rows_read");
            }
        }
        let claimable = self.may_claim() && self.next.is_some();
        let complete = self.flights.front().is_some_and(Flight::is_complete);
        if !claimable && !complete {
            let longest = if stopping { 20 } else { 50 };
            self.poll(Duration::from_millis(longest))?;
        } else {
            self.poll(Duration::ZERO)?;
        }
        if self.failure.is_some() {
            return Ok(false);
        }
        self.advance()?;
        self.side_work()?;
        Ok(false)
    }

    /// Settles what is complete together with claiming what is next, then sends it.
    fn advance(&mut self) -> Result<(), Halt> {
        if self.flights.is_empty() {
            self.end_outdated_epochs()?;
        }
        if self.flights.is_empty() && self.producer_no_longer_fits() {
            self.failure = Some(Failure::Producer);
            return Ok(());
        }
        if !self.may_claim() {
            return self.settle(None);
        }
        let Some(mut batch) = self.next.take() else { return self.settle(None) };
        let prepared = match self.prepare(&mut batch) {
            Ok(prepared) => prepared,
            Err(halt) => {
                self.next = Some(batch);
                // What is complete must not wait for a topic that cannot be looked at.
                self.settle(None)?;
                return Err(halt);
            }
        };
        if !prepared {
            self.next = Some(batch);
            return self.settle(None);
        }
        let any = !batch.rows.is_empty();
        if let Err(halt) = self.settle(Some(&mut batch)) {
            self.next = Some(batch);
            return Err(halt);
        }
        if any { self.fly() } else { Ok(()) }
    }

    /// Whether a new batch may be numbered now.
    pub fn may_claim(&self) -> bool {
        self.failure.is_none()
            && self.mode == Mode::Together
            && self.drain_until.is_none()
            && !self.topics.any_outdated()
            && self.flights.len() < self.ground.options.batches_in_flight_max
    }

    /// Gives a buffer back to the reading thread.
    pub fn recycle(&self, rows: RowBuf) {
        if let Some(reading) = &self.reading {
            reading.recycle(rows);
        }
    }

    /// Waits up to `wait` for reports and takes them.
    pub fn poll(&mut self, wait: Duration) -> Result<(), Halt> {
        let Some(producer) = &self.producer else { return Ok(()) };
        let (flights, repairs) = (&mut self.flights, &mut self.repairs);
        let (first, mode) = (self.first_flight, self.mode);
        let (mut acked, mut failure, mut reason) = (0, None, None);
        let polled = producer.poll(wait, |tag, report| {
            if tag & REPAIR_TAG != 0 {
                repairs.report(tag & !REPAIR_TAG, report);
                return;
            }
            let number = (tag >> 32) as u32;
            let row = tag & 0xffff_ffff;
            let Some(flight) = flights.get_mut(number.wrapping_sub(first) as usize) else { return };
            match report {
                Report::At(offset) => acked += u64::from(flight.found(row, offset)),
                report => {
                    super::sending::failed((flight, mode), row, report, &mut failure, &mut reason);
                }
            }
        });
        self.outstanding = self.outstanding.saturating_sub(polled.reports);
        self.ground.status.add(Count::Acked, acked);
        let throttled = producer.throttled();
        if acked > 0 {
            self.fruitless = 0;
            self.waiting.progress();
        }
        let any_fatal = polled.errors.iter().any(|error| error.fatal);
        if let Some(error) = most_telling(polled.errors) {
            self.pins.doubt();
            let text = format!("Kafka at {}: {}", self.ground.kafka.bootstrap, error.reason);
            self.troubled(&describe(error.code, &text))?;
        } else if !throttled.is_zero() && self.outstanding > 0 {
            self.troubled(
                "N06: a quota of the cluster slows this user's requests down: raise its producer_byte_rate",
            )?;
        } else if acked > 0 {
            self.untroubled()?;
        }
        if any_fatal && failure.is_none() {
            failure = Some(Failure::Producer);
        }
        if let Some(failure) = failure {
            self.fail(failure, &reason.unwrap_or_default())?;
        }
        self.look_why()
    }

    /// Notes that the producer has to be replaced, and why.
    pub fn fail(&mut self, failure: Failure, reason: &str) -> Result<(), Halt> {
        if self.failure != Some(Failure::Refused) {
            self.failure = Some(failure);
        }
        if self.mode == Mode::Together || failure != Failure::Refused {
            let text = match code_of(reason) {
                Some(_) => reason.to_owned(),
                None => format!("sending failed, trying again: {reason}"),
            };
            self.troubled(&text)?;
        }
        Ok(())
    }

    /// Renews the lease when a third of it is over; call it in every loop that may take long.
    pub fn keep_alive(&mut self) -> Result<(), Halt> {
        if Instant::now() < self.renew_at {
            return Ok(());
        }
        let until = self.lease_until_ms();
        self.ground.store.renew(self.ground.token, until)?;
        self.renewed();
        Ok(())
    }

    pub fn renewed(&mut self) {
        self.renew_at = Instant::now() + self.ground.options.lease / 3;
    }

    pub fn lease_until_ms(&self) -> i64 {
        let lease = i64::try_from(self.ground.options.lease.as_millis()).unwrap_or(i64::MAX / 2);
        now_ms().saturating_add(lease)
    }

    /// Whether someone asked to stop; the time for draining runs from the first time this sees it.
    pub fn stopping(&mut self) -> bool {
        if self.drain_until.is_none() && self.ground.shutdown.is_triggered() {
            self.drain_until = Some(Instant::now() + self.ground.options.drain_timeout);
        }
        self.drain_until.is_some()
    }

    /// Stops a loop inside a turn when the time for draining is over; keeps the lease meanwhile.
    pub fn go_on(&mut self) -> Result<(), Halt> {
        if self.stopping() && self.drain_until.is_some_and(|until| Instant::now() >= until) {
            return Err(Halt::Stopped);
        }
        self.keep_alive()
    }

    /// The handle of a topic in the present producer.
    pub fn handle(&mut self, topic: usize) -> Result<crate::kafka::producer::TopicHandle, Halt> {
        let open = &mut self.topics.list[topic];
        if let Some(handle) = open.handle {
            return Ok(handle);
        }
        let producer = self.producer.as_mut().expect("whoever sends has a producer");
        let handle = producer.topic(&open.epoch.topic).map_err(RelayError::from)?;
        open.handle = Some(handle);
        Ok(handle)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.wake_up.set(None);
        self.ground.status.set_oldest(None);
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
