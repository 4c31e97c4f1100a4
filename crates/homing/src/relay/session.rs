//! One ownership of an outbox: executes what the machine decides, and tells it what came of it.
//!
//! Everything runs on the caller's thread but reading rows and asking Kafka, which
//! have their own. Each action has one event as its answer; an action that the
//! database could not do now changes nothing and is decided anew.

use super::answer::Answer;
use super::asking::{self, Question};
use super::beginning::{self, ToBegin};
use super::error::Halt;
use super::inbox::{Inbox, WakeUp};
use super::loaded::Loaded;
use super::options::RelayOptions;
use super::ordering::Orders;
use super::producing::Producers;
use super::reading::{ReadBatch, Reading};
use super::saying::Saying;
use super::status::RelayStatus;
use super::tails::{self, TailOf};
use super::topics::Topics;
use super::upkeep::Upkeep;
use super::worker::Workers;
use crate::kafka::config::KafkaConfig;
use crate::outbox::store::{BatchId, RowReader, Standing, Store, Voided};
use crate::shutdown::Shutdown;
use homing_core::relay::{Action, Event, LaneIx, Machine, Now, StandingLane, StandingTopic, TopicIx, Via};
use homing_core::{FencingToken, PayloadCrc, Seq, TopicName};
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

/// Rows that were read and wait to be claimed.
pub(super) struct Next {
    pub batch: ReadBatch,
    /// Topics whose rows were left out of it: they are held, whatever becomes of them meanwhile.
    pub left_out: Vec<TopicIx>,
}

/// A topic's held rows on their way.
pub(super) struct HeldRows {
    pub reader: Box<dyn RowReader>,
    /// At most two batches: the second tells whether the first is the last.
    pub read: VecDeque<ReadBatch>,
}

pub(super) struct Session<'a> {
    pub ground: Ground<'a>,
    pub machine: Machine,
    pub topics: Topics,
    pub memory: HashMap<BatchId, Loaded>,
    pub next_batch: BatchId,
    pub cluster_id: Option<String>,
    /// How many brokers the cluster had at the last look.
    pub nodes: usize,
    pub producers: Producers,
    pub upkeep: Upkeep,
    pub orders: Orders,
    pub saying: Saying,
    pub next: Option<Next>,
    pub held_rows: HashMap<TopicIx, HeldRows>,
    /// Why records are set aside, until their parts are settled.
    pub voids: HashMap<(LaneIx, Seq), Voided>,
    /// Checksums of what tails held, until the rows are in memory.
    pub found: HashMap<LaneIx, Vec<(Seq, PayloadCrc)>>,
    pub beginnings: HashMap<TopicIx, super::answer::Beginning>,
    pub inbox: Inbox<Answer>,
    pub wake_up: WakeUp,
    pub asker: Workers<Question>,
    pub tails: Workers<Vec<TailOf>>,
    pub beginner: Workers<ToBegin>,
    pub reading: Reading,
    began: Instant,
    pub tail_read: bool,
}

impl<'a> Session<'a> {
    pub fn new(ground: Ground<'a>) -> Result<Self, Halt> {
        let standing = ground.store.standing()?;
        let began = Instant::now();
        let limits = ground.options.limits();
        let machine = Machine::new(limits, standing_topics(&standing), Now::default());
        let mut topics = Topics::new(&standing);
        for epoch in &standing.topics {
            let ix = machine.find(&epoch.topic).expect("each open topic was given to the machine");
            topics.open(ix, epoch.clone());
        }
        let wake_up = WakeUp::default();
        let inbox = Inbox::new(wake_up.clone());
        let (kafka, stream, options) = (ground.kafka, ground.store.stream().clone(), ground.options);
        let asker = asking::start(kafka, options.request_timeout, inbox.clone())?;
        let tails = tails::start(kafka, (&stream, options.request_timeout), inbox.clone())?;
        let beginner = beginning::start(kafka, (&stream, options), inbox.clone())?;
        let reader = ground.store.reader(standing.claimed_through)?;
        let bell = ground.store.signals().enqueued;
        let reading = Reading::start(reader, options, bell, wake_up.clone())?;
        Ok(Self {
            machine,
            topics,
            memory: HashMap::new(),
            next_batch: standing.next_batch,
            cluster_id: standing.cluster_id,
            nodes: 0,
            producers: Producers::new(stream),
            upkeep: Upkeep::new(options),
            orders: Orders::default(),
            saying: Saying::new(kafka.fingerprint()),
            next: None,
            held_rows: HashMap::new(),
            voids: HashMap::new(),
            found: HashMap::new(),
            beginnings: HashMap::new(),
            inbox,
            wake_up,
            asker,
            tails,
            beginner,
            reading,
            began,
            tail_read: false,
            ground,
        })
    }

    /// Works until asked to stop and drained.
    pub fn run(&mut self) -> Result<(), Halt> {
        let mut event = Event::Nothing;
        loop {
            let now = self.now();
            let action = self.machine.step(event, now);
            if action == Action::Stop {
                return Ok(());
            }
            event = match self.execute(action) {
                Ok(event) => event,
                Err(Halt::Wait(said)) => Event::Hindered(said.since(self.now())),
                Err(halt) => return Err(halt),
            };
        }
    }

    pub fn now(&self) -> Now {
        Now(self.began.elapsed())
    }

    fn execute(&mut self, action: Action) -> Result<Event, Halt> {
        match action {
            Action::Wait { until } => self.wait(until),
            Action::Renew => {
                let until = self.lease_until_ms();
                self.ground.store.renew(self.ground.token, until)?;
                Ok(Event::Renewed)
            }
            Action::AskPins { in_doubt } => {
                self.renew_clients();
                let topics = self.pinned();
                self.ask(Question::Pins { in_doubt, topics })
            }
            Action::AskTopics(topics) => {
                let topics = self.named(&topics);
                self.ask(Question::Topics(topics))
            }
            Action::AskReasons(topics) => {
                self.renew_clients();
                let topics = self.named(&topics);
                self.ask(Question::Reasons(topics))
            }
            Action::AskTails(questions) => {
                let of = questions.into_iter().filter_map(|question| {
                    let (topic, partition) = self.lane_place(question.lane);
                    let lane = self.topics.lane(topic, partition)?;
                    let at = crate::kafka::partition_list::TopicPartition { topic: lane.topic, partition };
                    Some(TailOf { question, at, epoch: lane.epoch })
                });
                let of = of.collect();
                self.tails.ask(of);
                Ok(Event::Nothing)
            }
            Action::AskEpoch(ix) => {
                let partitions_min = self.topics.get(ix).grown_to;
                let topic = self.machine.name(ix).clone();
                self.beginner.ask(ToBegin { ix, topic, partitions_min });
                Ok(Event::Nothing)
            }
            Action::OpenEpoch(ix) => self.open_epoch(ix),
            Action::CloseTopic(ix, order) => self.close_topic(ix, order),
            Action::DiscardHeld(ix, order) => self.discard_held(ix, order),
            Action::Open(via) => self.open_producer(via),
            Action::Close(via) => Ok(self.close_producer(via)),
            Action::Send(range) => self.send(&range),
            Action::Void(rejection) => Ok(self.void(&rejection)),
            Action::Commit { settle, claim, hold } => self.commit(&settle, claim, &hold),
            Action::Load { lane, from } => self.load(lane, from),
            Action::Unload(batch) => Ok(self.unload(BatchId(batch.0))),
            Action::Stop => Ok(Event::Nothing),
        }
    }

    fn ask(&self, question: Question) -> Result<Event, Halt> {
        self.asker.ask(question);
        Ok(Event::Nothing)
    }

    fn named(&self, topics: &[TopicIx]) -> Vec<(TopicIx, TopicName)> {
        topics.iter().map(|ix| (*ix, self.machine.name(*ix).clone())).collect()
    }

    fn pinned(&self) -> Vec<(TopicIx, TopicName)> {
        let all: Vec<TopicIx> = (0..self.machine.topics()).map(TopicIx).collect();
        let open: Vec<TopicIx> = all.into_iter().filter(|ix| self.topics.epoch(*ix).is_some()).collect();
        self.named(&open)
    }

    /// The topic and partition of a lane.
    pub fn lane_place(&self, lane: LaneIx) -> (TopicIx, homing_core::Partition) {
        (self.machine.lane_topic(lane), self.machine.lane_partition(lane))
    }

    /// Waits for reports, answers, rows, or the time; takes what is there.
    fn wait(&mut self, until: Now) -> Result<Event, Halt> {
        if self.ground.shutdown.is_triggered() && !self.machine.is_draining() {
            return Ok(Event::StopAsked);
        }
        self.say()?;
        if !self.machine.is_draining() {
            self.look_for_orders()?;
            self.upkeep()?;
            if self.next.is_none()
                && let Some(batch) = self.reading.take()?
            {
                self.ground.options.steps.reached("relay.rows_read");
                let topics = batch.rows.topics().to_vec();
                self.next = Some(Next { batch, left_out: Vec::new() });
                return Ok(Event::RowsRead(topics));
            }
        }
        let heard = self.wake_up.count();
        let mut polled = self.poll(Duration::ZERO);
        self.take_answers(&mut polled)?;
        self.orders.hand_over(&mut polled);
        if polled.is_empty() {
            let longest = if self.machine.out().probe > 0 || self.upkeep.is_repairing() {
                Duration::from_millis(5)
            } else {
                Duration::from_millis(50)
            };
            let wait = until.since(self.now()).min(longest);
            if self.producers.is_open(Via::Main) {
                polled = self.poll(wait);
            } else {
                self.wake_up.wait(heard, wait);
                polled = self.poll(Duration::ZERO);
            }
            self.take_answers(&mut polled)?;
        }
        Ok(if polled.is_empty() { Event::Nothing } else { Event::Polled(polled) })
    }

    pub fn lease_until_ms(&self) -> i64 {
        let lease = i64::try_from(self.ground.options.lease.as_millis()).unwrap_or(i64::MAX / 2);
        now_ms().saturating_add(lease)
    }

    /// Opens the clients anew when what they were opened with has changed.
    fn renew_clients(&mut self) {
        if self.saying.is_troubled() && self.saying.settings_changed(self.ground.kafka.fingerprint()) {
            tracing::info!("a certificate or a client setting has changed; connecting anew");
            self.asker.ask(Question::Reopen);
            self.producers.renew = true;
        }
    }
}

fn standing_topics(standing: &Standing) -> Vec<StandingTopic> {
    let is_held = |topic: &TopicName| standing.held.iter().any(|held| held.topic == *topic);
    let mut lanes: HashMap<&TopicName, Vec<(i32, StandingLane)>> = HashMap::new();
    for lane in &standing.lanes {
        let at =
            StandingLane { next_seq: lane.next_seq, settled: lane.settled, next_offset: lane.next_offset };
        lanes.entry(&lane.topic).or_default().push((lane.partition.0, at));
    }
    let open = standing.topics.iter().map(|epoch| {
        let mut lanes = lanes.remove(&epoch.topic).unwrap_or_default();
        lanes.sort_by_key(|(partition, _)| *partition);
        let lanes = lanes.into_iter().map(|(_, lane)| lane).collect();
        StandingTopic { name: epoch.topic.clone(), lanes, held: is_held(&epoch.topic) }
    });
    let open: Vec<StandingTopic> = open.collect();
    let only_held = standing.held.iter().filter(|held| open.iter().all(|topic| topic.name != held.topic));
    let only_held: Vec<StandingTopic> = only_held
        .map(|held| StandingTopic { name: held.topic.clone(), lanes: Vec::new(), held: true })
        .collect();
    open.into_iter().chain(only_held).collect()
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.wake_up.set(None);
        self.ground.status.set_oldest(None);
        self.ground.status.set_troubles(Vec::new());
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
