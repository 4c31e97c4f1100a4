//! The poll thread: owns the Kafka client and all group calls, and never waits for a handler.
//!
//! One turn: serve the group, take in what workers finished, commit when it is
//! time, read a batch if the limits allow, sleep until the bell rings. Not
//! reading the data queue is all the back-pressure there is: group calls have a
//! queue of their own and are served all the same.

use super::attempt::Judge;
use super::begin::Beginnings;
use super::commit::Commits;
use super::dead_letter::DeadLetters;
use super::desk::Supervisor;
use super::dispatch::{Aside, Collected, Dispatch, Finished, Held, Job, SlotIndex};
use super::error::ConsumerError;
use super::group::Start;
use super::holes::Hole;
use super::options::{ConsumerOptions, SetAside};
use super::share::Shares;
use super::slots::Slots;
use super::status::ConsumerStatus;
use super::topics::Topics;
use super::watch::Watch;
use crate::kafka::bell::Bell;
use crate::kafka::native::ClientConfig;
use crate::kafka::native_call::{ReadBuffer, ReadError, SharedClient, Source};
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::record::Record;
use crate::shutdown::Shutdown;
use homing_core::{Completed, LaneHash, LaneId, Offset, Partition, ProcessingOrder, Registered};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Records read at a time.
const BATCH_MAX: usize = 1024;
/// The longest sleep; also how late a shutdown may be noticed.
const SLEEP_MAX: Duration = Duration::from_millis(25);

/// Everything the poll thread owns.
pub(crate) struct Intake {
    pub options: ConsumerOptions,
    pub bell: Arc<Bell>,
    pub dispatch: Arc<Dispatch>,
    pub judge: Arc<Judge>,
    pub status: Arc<ConsumerStatus>,
    pub slots: Slots,
    pub commits: Commits,
    pub letters: DeadLetters,
    pub shutdown: Shutdown,
    /// What the client was opened with.
    pub settings: ClientConfig,
    /// Partitions taken on whose beginning is being asked for.
    pub beginnings: Beginnings,
    /// Beginnings that are known and not yet followed.
    pub starts: Vec<Start>,
    /// Partitions that have begun, and that the client was not yet told to read.
    pub unread: Vec<TopicPartition>,
    pub watch: Watch,
    pub topics: Topics,
    /// Records keep their client open by themselves: it is not the one the dispatch keeps.
    pub keeps_records: bool,
    /// The client's `max.poll.interval.ms`.
    pub poll_interval_max: Duration,
    pub served_at: Instant,
    /// Records taken and not finished.
    pub in_hand: usize,
    pub in_hand_bytes: usize,
    /// Of these, the ones that run or may start; the others wait.
    in_flight: usize,
    pub shares: Shares,
    /// Records finished since the status was told.
    finished: u64,
    /// The mean size of recent records, to keep a batch within the byte limit.
    record_bytes: usize,
    batch: Vec<Record>,
    batches: u64,
    buffer: ReadBuffer,
    errors: Vec<ReadError>,
    jobs: Vec<(Option<LaneId>, Job)>,
    collected: Collected,
    done: Vec<Aside>,
    /// Since when the limits have kept records out.
    full_since: Option<Instant>,
    pub due: Option<u64>,
    supervisor: Supervisor,
    /// Dropped last: it cannot be closed before its records.
    pub client: SharedClient,
}

/// What the parts of an [`Intake`] are made of.
pub(crate) struct Parts {
    pub options: ConsumerOptions,
    pub client: SharedClient,
    pub bell: Arc<Bell>,
    pub dispatch: Arc<Dispatch>,
    pub judge: Arc<Judge>,
    pub status: Arc<ConsumerStatus>,
    pub letters: DeadLetters,
    pub shutdown: Shutdown,
    pub settings: ClientConfig,
    pub poll_interval_max: Duration,
}

impl Intake {
    pub fn new(parts: Parts) -> Self {
        let Parts { options, client, bell, dispatch, judge, status, .. } = parts;
        let Parts { letters, shutdown, settings, poll_interval_max, .. } = parts;
        // In KIP-848 groups the broker shares out, and sees topics change by itself.
        let is_classic = settings.get("group.protocol") != Some("consumer");
        let is_static = settings.get("group.instance.id").is_some_and(|id| !id.is_empty());
        let (watch, topics) =
            (Watch::new(options.stall_after), Topics::new(is_static && is_classic, Instant::now()));
        let commits = Commits::new(
            Arc::clone(&client),
            Arc::clone(&status),
            options.steps.clone(),
            options.commit_interval,
        );
        let shares = Shares::new(&options);
        Self {
            options,
            client,
            bell,
            dispatch,
            judge,
            status,
            slots: Slots::default(),
            commits,
            letters,
            shutdown,
            settings,
            beginnings: Beginnings::default(),
            starts: Vec::new(),
            unread: Vec::new(),
            watch,
            topics,
            keeps_records: false,
            poll_interval_max,
            served_at: Instant::now(),
            in_hand: 0,
            in_hand_bytes: 0,
            in_flight: 0,
            shares,
            finished: 0,
            record_bytes: 256,
            batch: Vec::new(),
            batches: 0,
            buffer: ReadBuffer::default(),
            errors: Vec::new(),
            jobs: Vec::new(),
            collected: Collected::default(),
            done: Vec::new(),
            full_since: None,
            due: None,
            supervisor: Supervisor::default(),
        }
    }

    /// Works until told to stop; what then remains to be done is [`stop`](Self::stop)'s.
    pub fn run(&mut self) -> Result<(), ConsumerError> {
        self.client.subscribe(&self.options.topics)?;
        self.served_at = Instant::now();
        while !self.shutdown.is_triggered() {
            if let Some(error) = self.dispatch.failure() {
                return Err(error);
            }
            self.serve_group()?;
            self.begin()?;
            self.start_reading()?;
            self.watch_topics()?;
            self.watch_partitions()?;
            self.collect()?;
            self.commits.tick(&mut self.slots);
            self.watch_shares();
            self.watch_windows();
            let more = self.take_in()?;
            self.dispatch.supervise(&mut self.supervisor);
            self.due = self.dispatch.wake_due();
            self.publish();
            if !more {
                self.sleep();
            }
        }
        Ok(())
    }

    /// Takes over what workers finished, set aside or let go.
    pub fn collect(&mut self) -> Result<(), ConsumerError> {
        let mut collected = std::mem::take(&mut self.collected);
        self.dispatch.collect(&mut collected);
        self.in_flight = collected.in_flight;
        for finished in collected.finished.drain(..) {
            self.finish(finished);
        }
        for job in collected.released.drain(..) {
            self.release(&job);
        }
        let mut refused = None;
        for aside in collected.aside.drain(..) {
            refused = self.set_aside(aside).err().or(refused);
        }
        self.collected = collected;
        let mut done = std::mem::take(&mut self.done);
        self.letters.tick(&mut done);
        for aside in done.drain(..) {
            ConsumerStatus::add(&self.status.dead_lettered, 1);
            ConsumerStatus::add(&self.status.parked, u64::from(aside.follows));
            self.finish(Finished::of(&aside.job));
            if let Some(lane) = aside.lane {
                self.dispatch.release_lane(lane);
            }
        }
        self.done = done;
        ConsumerStatus::add(&self.status.finished, std::mem::take(&mut self.finished));
        refused.map_or(Ok(()), Err)
    }

    #[inline]
    fn finish(&mut self, Finished { slot, token, bytes }: Finished) {
        self.in_hand -= 1;
        self.in_hand_bytes -= bytes;
        let completed = self.slots.get_mut(slot).map_or(Completed::Stale, |slot| {
            slot.touched = true;
            slot.finished_lately += 1;
            slot.tracker.complete(token)
        });
        match completed {
            Completed::Advanced { .. } | Completed::Recorded => {
                self.finished += 1;
                self.options.steps.reached("consumer.tracked");
            }
            Completed::Stale => ConsumerStatus::add(&self.status.stale, 1),
            Completed::Repeated | Completed::Unknown => {
                unreachable!("a job is handed out once and completed once, this one was {completed:?}")
            }
        }
    }

    fn release(&mut self, job: &Job) {
        self.in_hand -= 1;
        self.in_hand_bytes -= job.record.size_bytes();
        if let Some(slot) = self.slots.get_mut(job.slot)
            && slot.tracker.assignment() == job.token.assignment
        {
            slot.released += 1;
        }
    }

    /// Sets a record aside; one that cannot be stays unfinished and ends the run.
    fn set_aside(&mut self, aside: Aside) -> Result<(), ConsumerError> {
        let (at, offset) = (super::attempt::place(&aside.job), aside.job.token.offset);
        let limit = self.options.parked_keys_max;
        let refused = if !self.letters.have_a_place() {
            let (attempts, reason) = (aside.job.failures, aside.reason.clone());
            Some(ConsumerError::NowhereToSetAside { at, offset, attempts, reason })
        } else if self.options.set_aside == SetAside::Key && !self.judge.parked.park(&aside.job, limit) {
            Some(ConsumerError::TooManyParked { at, offset, limit })
        } else {
            None
        };
        if let Some(error) = refused {
            self.release(&aside.job);
            return Err(error);
        }
        self.letters.submit(aside);
        Ok(())
    }

    /// Reads a batch if the limits allow; says whether there is likely more to read at once.
    fn take_in(&mut self) -> Result<bool, ConsumerError> {
        let obstacle = self.letters.obstacle();
        let stopped = obstacle.is_some();
        if self.status.intake(obstacle.clone())
            && let Some(reason) = obstacle
        {
            tracing::error!(reason, "intake stopped");
        }
        let room = if stopped { 0 } else { self.room() };
        if room == 0 {
            return Ok(false);
        }
        let mut batch = std::mem::take(&mut self.batch);
        let limit = (room, Duration::ZERO);
        self.batches += 1;
        let count = self.client.read(Source::Data, &mut self.buffer, limit, &mut batch, &mut self.errors);
        // First: records behind an error are not to be believed.
        let told = self.read_errors();
        if !batch.is_empty() && told.is_ok() {
            self.options.steps.reached("consumer.polled");
            self.register(&mut batch);
        }
        self.batch = batch;
        told?;
        Ok(count == room)
    }

    /// Whether records are taken in at the moment.
    pub fn is_reading(&self) -> bool {
        self.full_since.is_none() && self.letters.obstacle().is_none()
    }

    /// Has the client read a partition again from where its tracker stands.
    fn read_again(&mut self, index: SlotIndex) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.holes.unsettle();
        slot.dropped_of_batch = self.batches;
        if let Err(error) = self.client.seek(&[slot.read_on()], Duration::ZERO) {
            // The watch over the partition comes to the same place.
            tracing::warn!(at = %slot.at, %error, "reading again");
        }
    }

    /// How many records may be read now.
    fn room(&mut self) -> usize {
        let free = self.free();
        let free_bytes = self.shares.bytes_cap.saturating_sub(self.in_hand_bytes);
        let by_bytes = if free_bytes == 0 { 0 } else { free_bytes / self.record_bytes + 1 };
        let room = free.min(by_bytes).min(BATCH_MAX);
        // A few free places are left to grow into a batch worth reading, for a moment.
        let worthwhile = (self.options.in_flight_max / 16).clamp(1, BATCH_MAX / 8);
        if room >= worthwhile || by_bytes < worthwhile && room > 0 {
            self.full_since = None;
            return room;
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if since.elapsed() > Duration::from_millis(2) { room } else { 0 }
    }

    /// Records that may be read, whether they turn out to be in flight or to wait.
    fn free(&self) -> usize {
        let free = self.options.in_flight_max.saturating_sub(self.in_flight);
        free.min(self.shares.waiting_cap.saturating_sub(self.waiting()))
    }

    /// Records in hand that wait, behind another of their lane or for another attempt.
    pub fn waiting(&self) -> usize {
        self.in_hand.saturating_sub(self.in_flight)
    }

    fn register(&mut self, batch: &mut Vec<Record>) {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let (mut received, mut restored, mut repeated, mut bytes) = (0u64, 0u64, 0u64, 0usize);
        for mut record in batch.drain(..) {
            // Records of partitions given up meanwhile are dropped here.
            let Some(index) = self.slots.of(&record) else { continue };
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if slot.dropped_of_batch == self.batches {
                continue;
            }
            match slot.holes.look(slot.tracker.position(), record.offset()) {
                Hole::None => {}
                Hole::WasSkipped => {
                    tracing::warn!(at = %slot.at, offset = record.offset().0, "the client had skipped this record (C22); it was read after all");
                    ConsumerStatus::add(&self.status.skips_caught, 1);
                }
                Hole::Ask => {
                    tracing::debug!(at = %slot.at, expected = slot.tracker.position().0, offset = record.offset().0, "a hole: asking the log again");
                    self.read_again(index);
                    continue;
                }
            }
            slot.hearing.heard = true;
            received += 1;
            slot.continuity.observe(&record, now_ms, &slot.at, &self.status);
            let token = match slot.register(&record) {
                Registered::Fresh(token) => token,
                Registered::AlreadyDone => {
                    slot.touched = true;
                    restored += 1;
                    continue;
                }
                Registered::InFlight => {
                    repeated += 1;
                    continue;
                }
            };
            bytes += record.size_bytes();
            if self.keeps_records {
                record.keep(&self.client);
            }
            let lane = lane_of(self.options.order, index, record.partition(), record.key());
            self.jobs.push((lane, Job { record: Held::Own(record), slot: index, token, failures: 0 }));
        }
        let taken = self.jobs.len();
        self.in_hand += taken;
        self.in_hand_bytes += bytes;
        if let Some(mean) = bytes.checked_div(taken) {
            self.record_bytes = (self.record_bytes * 3 + mean) / 4 + 1;
        }
        if taken > 0 {
            self.in_flight = self.dispatch.push(&mut self.jobs);
        }
        ConsumerStatus::add(&self.status.received, received);
        if restored + repeated > 0 {
            ConsumerStatus::add(&self.status.restored, restored);
            ConsumerStatus::add(&self.status.finished, restored);
            ConsumerStatus::add(&self.status.repeated, repeated);
        }
    }

    fn read_errors(&mut self) -> Result<(), ConsumerError> {
        for ReadError { at, offset, error } in std::mem::take(&mut self.errors) {
            let held = at.as_ref().and_then(|at| self.slots.named(at));
            let position = held.and_then(|index| self.slots.get(index)).map(|slot| slot.tracker.position());
            match at {
                // One that asks for another offset than ours speaks of a position of the client's own.
                Some(at) if error.is_out_of_range() && (offset < 0 || position == Some(Offset(offset))) => {
                    if let Some(position) = position {
                        let held_of = held.and_then(|index| self.slots.get(index)?.topic_id);
                        if self.gives_up_former(&at.topic, held_of) {
                            return self.join_anew();
                        }
                        return Err(self.out_of_range(at, position, error.reason));
                    }
                }
                _ if error.fatal => return Err(error.into()),
                at => {
                    // What the client goes on to mend by itself.
                    tracing::warn!(at = at.map(|at| at.to_string()), %error, "read trouble");
                    self.status.failed(error.to_string());
                    // But it takes the error for a record at its offset (librdkafka #4844, C22).
                    if let Some(index) = held {
                        self.read_again(index);
                    }
                }
            }
        }
        Ok(())
    }

    fn out_of_range(&self, at: TopicPartition, offset: Offset, reason: String) -> ConsumerError {
        let (low, high) =
            self.client.watermarks(&at, self.options.request_timeout).unwrap_or((Offset(-1), Offset(-1)));
        ConsumerError::OutOfRange { at, offset, low, high, reason }
    }

    /// Runs what waits in the consumer queue, and follows what the group asks.
    fn serve_group(&mut self) -> Result<(), ConsumerError> {
        if self.served_at.elapsed() > self.poll_interval_max {
            self.overslept()?;
        }
        self.served_at = Instant::now();
        self.client.serve(&mut self.batch, &mut self.errors);
        let (events, errors) = self.client.take_events();
        for error in errors {
            if error.fatal {
                return Err(error.into());
            }
            self.status.failed(error.to_string());
        }
        self.read_errors()?;
        // Each is followed, whatever becomes of one before it: the group waits for the answers.
        events.into_iter().map(|event| self.follow(event)).fold(Ok(()), Result::and)
    }

    fn sleep(&mut self) {
        let now = Instant::now();
        let mut longest = SLEEP_MAX.min(self.commits.next_at().saturating_duration_since(now));
        if let Some(at) = self.letters.next_at() {
            longest = longest.min(at.saturating_duration_since(now));
        }
        if let Some(due_ms) = self.due {
            longest = longest.min(Duration::from_millis(due_ms.saturating_sub(self.dispatch.now_ms())));
        }
        let wanted = match self.full_since {
            None => 0,
            Some(_) => {
                if self.free() > 0 {
                    longest = longest.min(Duration::from_millis(2));
                }
                (self.options.in_flight_max / 16).clamp(1, BATCH_MAX / 8)
            }
        };
        if self.dispatch.want(wanted) < wanted.max(1) || wanted == 0 {
            self.bell.wait(longest.max(Duration::from_micros(200)));
        }
        self.dispatch.want(0);
    }

    pub fn publish(&self) {
        ConsumerStatus::set(&self.status.in_flight, self.in_hand as u64);
        ConsumerStatus::set(&self.status.in_flight_bytes, self.in_hand_bytes as u64);
        ConsumerStatus::set(&self.status.waiting, self.waiting() as u64);
    }
}

/// The lane of a record: partitions are told apart by their slot, which has one number for both
/// topic and partition.
#[inline]
fn lane_of(
    order: ProcessingOrder,
    slot: SlotIndex,
    partition: Partition,
    key: Option<&[u8]>,
) -> Option<LaneId> {
    order.lane(slot.0, partition, key).map(|hash: LaneHash| hash.into())
}
