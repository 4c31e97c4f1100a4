//! The machine's state and its way in: one event, one action.

use super::event::{Action, Event, SendRange};
use super::lane::Lane;
use super::memory::Flight;
use super::topic::Topic;
use super::{BatchNo, LaneIx, LanePhase, Limits, MainPhase, Now, Place, TopicIx, TopicPhase, Trouble};
use crate::{Offset, Partition, Seq, TopicName};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A topic with an open epoch, as the database has it.
#[derive(Debug, Clone)]
pub struct StandingTopic {
    /// The topic.
    pub name: TopicName,
    /// Its lanes, by partition; none: it has no open epoch and is only held.
    pub lanes: Vec<StandingLane>,
    /// Whether its rows are held.
    pub held: bool,
}

/// A lane of an open epoch, as the database has it.
#[derive(Debug, Clone, Copy)]
pub struct StandingLane {
    /// The seq its next row gets.
    pub next_seq: Seq,
    /// All up to this one are settled.
    pub settled: u64,
    /// From where its tail is to be read.
    pub next_offset: Offset,
}

/// New rows that wait to be claimed.
#[derive(Debug)]
pub(super) struct Pending {
    pub topics: Vec<TopicIx>,
    pub since: Now,
}

/// What the probe producer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbePhase {
    Closed { retry_at: Now },
    Open,
    Failed,
}

/// A relay's decisions from one takeover to the next.
#[derive(Debug)]
pub struct Machine {
    pub(super) limits: Limits,
    pub(super) topics: Vec<Topic>,
    pub(super) by_name: HashMap<TopicName, TopicIx>,
    pub(super) lanes: Vec<Lane>,
    pub(super) flights: Vec<Flight>,
    pub(super) main: MainPhase,
    /// Main producers in a row that got nothing acknowledged.
    pub(super) main_failures: u32,
    pub(super) main_acked: bool,
    pub(super) main_out: u64,
    pub(super) regroup: bool,
    pub(super) full_until: Now,
    pub(super) probe: ProbePhase,
    pub(super) probe_failures: u32,
    pub(super) probe_out: u64,
    pub(super) pending: Option<Pending>,
    pub(super) sending: Option<SendRange>,
    pub(super) renew_at: Now,
    pub(super) database_retry_at: Now,
    pub(super) database_attempt: u32,
    /// Kafka's identity was compared once.
    pub(super) pinned: bool,
    pub(super) in_doubt: bool,
    pub(super) pins_out: bool,
    pub(super) pins_at: Option<Now>,
    pub(super) drain_until: Option<Now>,
    /// Lanes that may have something to send.
    pub(super) list: VecDeque<LaneIx>,
    /// Lanes of which something is due by time.
    pub(super) watched: BTreeSet<LaneIx>,
    pub(super) watched_at: Now,
    /// Lanes whose first part is decided.
    pub(super) ready: BTreeSet<LaneIx>,
    /// Lanes whose tail is to be asked for.
    pub(super) unread: BTreeSet<LaneIx>,
    /// Lanes that want rows from the manifests.
    pub(super) hungry: BTreeSet<LaneIx>,
    /// Topics of which something may be to do.
    pub(super) topics_due: BTreeSet<TopicIx>,
    /// Orders and epochs take turns with everything else that wants the database.
    pub(super) topics_turn: bool,
    pub(super) voids: VecDeque<super::Rejection>,
    pub(super) database: Option<Trouble>,
    pub(super) client: Option<Trouble>,
}

impl Machine {
    /// A machine that has just taken over.
    #[must_use]
    pub fn new(limits: Limits, standing: Vec<StandingTopic>, now: Now) -> Self {
        let mut machine = Self {
            limits,
            topics: Vec::new(),
            by_name: HashMap::new(),
            lanes: Vec::new(),
            flights: Vec::new(),
            main: MainPhase::Closed { retry_at: now },
            main_failures: 0,
            main_acked: false,
            main_out: 0,
            regroup: false,
            full_until: now,
            probe: ProbePhase::Closed { retry_at: now },
            probe_failures: 0,
            probe_out: 0,
            pending: None,
            sending: None,
            renew_at: now.plus(limits.lease / 3),
            database_retry_at: now,
            database_attempt: 0,
            pinned: false,
            in_doubt: true,
            pins_out: false,
            pins_at: None,
            drain_until: None,
            list: VecDeque::new(),
            watched: BTreeSet::new(),
            watched_at: now,
            ready: BTreeSet::new(),
            unread: BTreeSet::new(),
            hungry: BTreeSet::new(),
            topics_due: BTreeSet::new(),
            topics_turn: true,
            voids: VecDeque::new(),
            database: None,
            client: None,
        };
        for topic in standing {
            let asked = TopicPhase::Asked { out: false };
            let phase = if topic.lanes.is_empty() { asked } else { TopicPhase::Pinned };
            let ix = machine.intern(&topic.name, phase);
            machine.topics[ix.0 as usize].held = topic.held;
            machine.topics[ix.0 as usize].wanted = topic.held;
            for lane in topic.lanes {
                let unread = LanePhase::Unread { asked: false };
                machine.add_lane(Lane::new(ix, unread, lane.settled, lane.next_seq, lane.next_offset));
            }
            machine.topics_due.insert(ix);
        }
        machine
    }

    /// Takes in what happened and says what to do next.
    pub fn step(&mut self, event: Event, now: Now) -> Action {
        self.take(event, now);
        self.decide(now)
    }

    pub(super) fn intern(&mut self, name: &TopicName, phase: TopicPhase) -> TopicIx {
        if let Some(ix) = self.by_name.get(name) {
            return *ix;
        }
        let ix = TopicIx(u32::try_from(self.topics.len()).expect("fewer topics than rows"));
        self.topics.push(Topic::new(name.clone(), phase));
        self.by_name.insert(name.clone(), ix);
        ix
    }

    pub(super) fn add_lane(&mut self, mut lane: Lane) -> LaneIx {
        assert!(self.lanes.len() < super::LANES_MAX, "a session has fewer than 2^24 lanes");
        let ix = LaneIx(self.lanes.len() as u32);
        let lanes = &mut self.topics[lane.topic.0 as usize].lanes;
        lane.partition = Partition(i32::try_from(lanes.len()).expect("a partition is an i32"));
        lanes.push(ix);
        self.lanes.push(lane);
        ix
    }

    pub(super) fn lane(&mut self, ix: LaneIx) -> &mut Lane {
        &mut self.lanes[ix.0 as usize]
    }

    pub(super) fn topic(&mut self, ix: TopicIx) -> &mut Topic {
        &mut self.topics[ix.0 as usize]
    }

    pub(super) fn topic_of(&self, lane: LaneIx) -> &Topic {
        &self.topics[self.lanes[lane.0 as usize].topic.0 as usize]
    }

    /// Puts a lane on the list of those that may have something to send.
    pub(super) fn attend(&mut self, ix: LaneIx) {
        if !self.lanes[ix.0 as usize].listed {
            self.lanes[ix.0 as usize].listed = true;
            self.list.push_back(ix);
        }
    }

    /// A topic's place, if it is known.
    #[must_use]
    pub fn find(&self, topic: &TopicName) -> Option<TopicIx> {
        self.by_name.get(topic).copied()
    }

    /// A topic's name.
    #[must_use]
    pub fn name(&self, topic: TopicIx) -> &TopicName {
        &self.topics[topic.0 as usize].name
    }

    /// A topic's place, which is made when it is new.
    pub fn place(&mut self, topic: &TopicName) -> TopicIx {
        self.intern(topic, TopicPhase::Asked { out: false })
    }

    /// How many topics there are.
    #[must_use]
    pub fn topics(&self) -> u32 {
        self.topics.len() as u32
    }

    /// What a topic is at.
    #[must_use]
    pub fn topic_phase(&self, topic: TopicIx) -> TopicPhase {
        self.topics[topic.0 as usize].phase
    }

    /// Whether a topic's rows are held.
    #[must_use]
    pub fn is_held(&self, topic: TopicIx) -> bool {
        self.topics[topic.0 as usize].held
    }

    /// The lanes of a topic's open epoch, by partition; of an earlier epoch once a new one is to be opened.
    #[must_use]
    pub fn lanes_of(&self, topic: TopicIx) -> &[LaneIx] {
        &self.topics[topic.0 as usize].lanes
    }

    /// What a lane is at.
    #[must_use]
    pub fn lane_phase(&self, lane: LaneIx) -> LanePhase {
        self.lanes[lane.0 as usize].phase
    }

    /// The seq a lane's next row gets.
    #[must_use]
    pub fn next_seq(&self, lane: LaneIx) -> Seq {
        self.lanes[lane.0 as usize].next_seq
    }

    /// A seq that is under way in the lane or was last.
    #[must_use]
    pub fn seq_near(&self, lane: LaneIx) -> Seq {
        self.lanes[lane.0 as usize].settled_to
    }

    /// What the main producer is at.
    #[must_use]
    pub fn main_phase(&self) -> MainPhase {
        self.main
    }

    /// Whether records are out in a producer.
    #[must_use]
    pub fn out(&self) -> Outstanding {
        Outstanding { main: self.main_out, probe: self.probe_out }
    }

    /// The runs that prove a part's delivery, in seq order.
    pub fn fates_of(&self, part: &super::PartRef) -> impl Iterator<Item = super::fates::Run> + '_ {
        let end = Seq(part.first.0 + u64::from(part.rows));
        self.lanes[part.lane.0 as usize].fates.within(part.first, end)
    }

    /// The batches in memory.
    pub fn in_memory(&self) -> impl Iterator<Item = BatchNo> + '_ {
        self.flights.iter().map(|flight| flight.batch)
    }

    /// When the oldest batch in memory was claimed or read.
    #[must_use]
    pub fn oldest(&self) -> Option<Now> {
        self.flights.iter().map(|flight| flight.since).min()
    }

    /// Everything that waits, the widest first.
    #[must_use]
    pub fn troubles(&self) -> Vec<(Place, Trouble)> {
        let overall = self.database.iter().chain(&self.client).map(|trouble| (Place::All, trouble));
        let topics = self
            .topics
            .iter()
            .enumerate()
            .filter_map(|(at, topic)| Some((Place::Topic(TopicIx(at as u32)), topic.trouble.as_ref()?)));
        let lanes = self.lanes.iter().enumerate().filter_map(|(at, lane)| {
            let open = lane.phase != LanePhase::Closed;
            Some((Place::Lane(LaneIx(at as u32)), lane.trouble.as_ref().filter(|_| open)?))
        });
        overall.chain(topics).chain(lanes).map(|(place, trouble)| (place, trouble.clone())).collect()
    }

    /// Whether nothing new is claimed any more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    /// The claim that waits for its topics names these.
    #[must_use]
    pub fn pending_topics(&self) -> &[TopicIx] {
        self.pending.as_ref().map_or(&[], |pending| &pending.topics)
    }

    /// A topic's trouble.
    #[must_use]
    pub fn topic_trouble(&self, topic: TopicIx) -> Option<&Trouble> {
        self.topics[topic.0 as usize].trouble.as_ref()
    }

    /// The partition of a lane.
    #[must_use]
    pub fn lane_partition(&self, lane: LaneIx) -> Partition {
        self.lanes[lane.0 as usize].partition
    }

    /// The topic of a lane.
    #[must_use]
    pub fn lane_topic(&self, lane: LaneIx) -> TopicIx {
        self.lanes[lane.0 as usize].topic
    }
}

/// Records handed over and not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    /// In the main producer.
    pub main: u64,
    /// In the probe producer.
    pub probe: u64,
}
