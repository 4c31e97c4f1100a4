//! A naive world around the relay's machine: a database, a log, two producers and a driver that may die.
#![allow(dead_code)]

use homing_core::relay::*;
use homing_core::{Offset, Seq, TopicName};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub const TOPICS: usize = 3;
pub const PARTITIONS: usize = 2;
/// Topic 2 is not there at first.
pub const LATE_TOPIC: usize = 2;
pub const BATCHES_MAX: usize = 2;
pub const LANE_OUT_MAX: u32 = 5;
const BATCH_ROWS: usize = 6;

/// Topic and partition.
pub type Place = (usize, usize);
pub type Row = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    None,
    /// Nothing is answered.
    Silent,
    /// Every record is refused with this code.
    Refuse(i32),
}

#[derive(Debug, Clone)]
pub struct RowState {
    pub place: Place,
    /// The broker refuses this very record.
    pub bad: bool,
    pub claimed: bool,
}

#[derive(Debug, Clone)]
struct DbPart {
    place: Place,
    first: u64,
    rows: Vec<Row>,
    settled: bool,
}

#[derive(Debug, Clone, Default)]
struct DbLane {
    next_seq: u64,
    settled: u64,
    next_offset: i64,
}

#[derive(Debug, Default)]
struct Database {
    rows: Vec<RowState>,
    claimed_through: usize,
    batches: Vec<Vec<DbPart>>,
    lanes: BTreeMap<Place, DbLane>,
    held: [bool; TOPICS],
    voided: BTreeSet<(Place, u64)>,
    /// So many writes find it busy.
    busy: u32,
    /// The next commit's answer is lost; it happened, or not.
    lost_answer: Option<bool>,
}

#[derive(Debug, Default)]
struct Queue {
    of: BTreeMap<Place, VecDeque<(u64, Row)>>,
}

/// How the driver may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// It leaves a range when the lease cannot be renewed, and takes it for sent (issue 9, number 1).
    LeavesARangeWhenTheDatabaseIsBusy,
}

struct Owner {
    machine: Machine,
    next: Action,
    main: Option<Queue>,
    probe: Option<Queue>,
    memory: BTreeMap<i64, Vec<(Place, u64, Vec<Row>)>>,
    read: Option<usize>,
    heard: Polled,
    renewal_failed: bool,
    tails: Vec<TailQuestion>,
}

pub struct World {
    database: Database,
    pub log: BTreeMap<Place, Vec<(u64, Row)>>,
    pub outages: BTreeMap<Place, Outage>,
    pub shown: [bool; TOPICS],
    owner: Option<Owner>,
    /// Queues of owners that are gone and may still arrive.
    zombies: Vec<Queue>,
    numbers: BTreeMap<(Place, u64), Row>,
    now: Now,
    stopping: bool,
    pub bug: Bug,
    pub wrong: Option<String>,
}

fn limits() -> Limits {
    let ms = Duration::from_millis;
    Limits {
        lease: ms(900),
        batches_max: BATCHES_MAX,
        lane_rows_out_max: LANE_OUT_MAX,
        silence: ms(200),
        patience: ms(30),
        retry_min: ms(5),
        retry_max: ms(50),
        pins_every: ms(500),
        missing_grace: ms(5000),
        missing_topic_after: None,
        settle_after: ms(5),
        reports_wait: ms(50),
        drain_timeout: ms(1000),
    }
}

fn name(topic: usize) -> TopicName {
    TopicName::parse(&format!("t{topic}")).unwrap()
}

fn trouble(now: Now, what: &str) -> Trouble {
    Trouble::new(None, what, now)
}

impl World {
    pub fn new(bug: Bug) -> Self {
        let places = (0..TOPICS).flat_map(|t| (0..PARTITIONS).map(move |p| (t, p)));
        Self {
            database: Database::default(),
            log: places.clone().map(|place| (place, Vec::new())).collect(),
            outages: places.map(|place| (place, Outage::None)).collect(),
            shown: [true, true, false],
            owner: None,
            zombies: Vec::new(),
            numbers: BTreeMap::new(),
            now: Now(Duration::from_secs(1)),
            stopping: false,
            bug,
            wrong: None,
        }
    }

    fn fail(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    pub fn enqueue(&mut self, place: Place, bad: bool) {
        self.database.rows.push(RowState { place, bad, claimed: false });
    }

    pub fn busy(&mut self, writes: u32) {
        self.database.busy = writes;
    }

    pub fn lose_answer(&mut self, happened: bool) {
        self.database.lost_answer = Some(happened);
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = self.now.plus(Duration::from_millis(ms));
    }

    /// The owner dies; what its producers hold may arrive later, or is lost.
    pub fn crash(&mut self, arrives: bool) {
        if let Some(owner) = self.owner.take()
            && arrives
        {
            self.zombies.extend(owner.main.into_iter().chain(owner.probe));
        }
    }

    fn take_over(&mut self) {
        let standing = (0..TOPICS)
            .filter(|t| self.database.lanes.contains_key(&(*t, 0)) || self.database.held[*t])
            .map(|t| {
                let lanes = (0..PARTITIONS).filter_map(|p| {
                    let lane = self.database.lanes.get(&(t, p))?;
                    Some(StandingLane {
                        next_seq: Seq(lane.next_seq),
                        settled: lane.settled,
                        next_offset: Offset(lane.next_offset),
                    })
                });
                StandingTopic { name: name(t), lanes: lanes.collect(), held: self.database.held[t] }
            })
            .collect();
        let mut machine = Machine::new(limits(), standing, self.now);
        let next = machine.step(Event::Nothing, self.now);
        self.owner = Some(Owner {
            machine,
            next,
            main: None,
            probe: None,
            memory: BTreeMap::new(),
            read: None,
            heard: Polled::default(),
            renewal_failed: false,
            tails: Vec::new(),
        });
    }

    /// Executes the action that is due; false when it was waiting and nothing was heard.
    pub fn step(&mut self) -> bool {
        if self.owner.is_none() {
            self.take_over();
        }
        let mut owner = self.owner.take().unwrap();
        let action = owner.next.clone();
        let waits = matches!(action, Action::Wait { .. });
        let event = self.execute(&mut owner, action);
        let Some(event) = event else { return true }; // It died.
        let idle = waits && matches!(event, Event::Nothing);
        owner.next = owner.machine.step(event, self.now);
        if owner.machine.in_memory().count() > 2 * BATCHES_MAX {
            self.fail("R7: more batches in memory than the options allow".to_owned());
        }
        self.owner = Some(owner);
        !idle
    }

    /// `None`: the owner is gone.
    fn execute(&mut self, owner: &mut Owner, action: Action) -> Option<Event> {
        let now = self.now;
        let busy = |database: &mut Database| {
            database.busy = database.busy.saturating_sub(1);
            Some(Event::Hindered(trouble(now, "the database is busy")))
        };
        match action {
            Action::Wait { .. } => {
                if owner.read.is_none() && self.database.claimed_through < self.database.rows.len() {
                    let from = self.database.claimed_through;
                    let to = (from + BATCH_ROWS).min(self.database.rows.len());
                    owner.read = Some(to);
                    let topics: BTreeSet<usize> =
                        self.database.rows[from..to].iter().map(|row| row.place.0).collect();
                    return Some(Event::RowsRead(topics.into_iter().map(name).collect()));
                }
                let heard = std::mem::take(&mut owner.heard);
                return Some(if heard.is_empty() { Event::Nothing } else { Event::Polled(heard) });
            }
            Action::Renew => {
                owner.renewal_failed = self.database.busy > 0;
                if self.database.busy > 0 {
                    return busy(&mut self.database);
                }
                return Some(Event::Renewed);
            }
            Action::AskPins { in_doubt } => {
                let pinned = (0..owner.machine.topics()).map(TopicIx);
                let topics = pinned.map(|ix| (ix, TopicSeen::Present)).collect();
                owner.heard.seen.push(Seen::Pins { in_doubt, topics: Ok(topics) });
            }
            Action::AskTopics(topics) => {
                for ix in topics {
                    let t = topic_number(&owner.machine, ix);
                    let missing = TopicSeen::Missing(trouble(now, "no such topic"));
                    let seen = if self.shown[t] { TopicSeen::Present } else { missing };
                    owner.heard.seen.push(Seen::Topic(ix, seen));
                }
            }
            Action::AskReasons(topics) => {
                let said = |ix| Seen::Reason(ix, trouble(now, "no leader"));
                owner.heard.seen.extend(topics.into_iter().map(said));
            }
            Action::AskTails(questions) => {
                for question in questions {
                    self.ask_tail(owner, question);
                }
            }
            Action::AskEpoch(ix) => owner.heard.seen.push(Seen::EpochFound(ix)),
            Action::OpenEpoch(ix) => {
                if self.database.busy > 0 {
                    return busy(&mut self.database);
                }
                let t = topic_number(&owner.machine, ix);
                let ends: Vec<Offset> =
                    (0..PARTITIONS).map(|p| Offset(self.log[&(t, p)].len() as i64)).collect();
                for (p, end) in ends.iter().enumerate() {
                    let lane = DbLane { next_seq: 1, settled: 0, next_offset: end.0 };
                    self.database.lanes.insert((t, p), lane);
                }
                return Some(Event::EpochOpened(BeganTopic { topic: ix, ends }));
            }
            Action::CloseTopic(..) | Action::DiscardHeld(..) => {
                self.fail("nothing here forks or is ordered".to_owned());
            }
            Action::Open(via) => {
                *(if via == Via::Main { &mut owner.main } else { &mut owner.probe }) = Some(Queue::default());
                return Some(Event::Opened(via));
            }
            Action::Close(via) => {
                let queue = if via == Via::Main { owner.main.take() } else { owner.probe.take() };
                // What was on its way may have arrived.
                self.zombies.extend(queue);
                self.drain_zombies(1);
                self.zombies.clear();
                let of = |ack: &Ack| ack.via != via;
                owner.heard.acks.retain(of);
                owner.heard.failures.retain(|failed| failed.via != via);
                if via == Via::Main {
                    owner.heard.main_fatal = false
                } else {
                    owner.heard.probe_fatal = false
                }
                return Some(Event::Closed(via));
            }
            Action::Send(range) => return Some(self.send(owner, range)),
            Action::Void(rejection) => {
                let place = place_of(&owner.machine, rejection.lane);
                let row = self.numbers.get(&(place, rejection.seq.0)).copied();
                if row.is_none_or(|row| !self.database.rows[row].bad) {
                    self.fail(format!("a sound record is set aside: {place:?} {rejection:?}"));
                }
            }
            Action::Commit { settle, claim, hold } => {
                if self.database.busy > 0 {
                    return busy(&mut self.database);
                }
                if let Some(happened) = self.database.lost_answer.take() {
                    if happened {
                        let _ = self.commit(owner, &settle, claim, &hold);
                    }
                    return None;
                }
                return Some(self.commit(owner, &settle, claim, &hold));
            }
            Action::Load { lane, from } => {
                if self.database.busy > 0 {
                    return busy(&mut self.database);
                }
                return Some(self.load(owner, lane, from));
            }
            Action::Unload(batch) => {
                if owner.memory.remove(&batch.0).is_none() {
                    self.fail(format!("batch {batch:?} was not in memory"));
                }
            }
            Action::Stop => self.fail("nobody asked it to stop".to_owned()),
        }
        Some(Event::Nothing)
    }

    fn ask_tail(&mut self, owner: &mut Owner, question: TailQuestion) {
        let place = place_of(&owner.machine, question.lane);
        if self.outages[&place] == Outage::Silent {
            owner.tails.push(question);
            let why = trouble(self.now, "cannot be read");
            owner.heard.seen.push(Seen::TailTrouble(question.lane, why));
        } else {
            owner.heard.seen.push(tail_of(&self.log[&place], question));
        }
    }

    fn send(&mut self, owner: &mut Owner, range: SendRange) -> Event {
        let place = place_of(&owner.machine, range.lane);
        let Some(rows) = owner.memory.get(&range.batch.0).and_then(|parts| {
            parts.iter().find(|(at, first, _)| *at == place && *first == range.part_first.0)
        }) else {
            self.fail(format!("rows to send are not in memory: {range:?}"));
            return Event::Nothing;
        };
        let rows = rows.2.clone();
        let skips = self.bug == Bug::LeavesARangeWhenTheDatabaseIsBusy && owner.renewal_failed;
        let queue = if range.via == Via::Main { &mut owner.main } else { &mut owner.probe };
        let Some(queue) = queue else {
            self.fail("a record is sent without a producer".to_owned());
            return Event::Nothing;
        };
        let queue = queue.of.entry(place).or_default();
        for seq in range.from.0..range.to.0 {
            if skips && seq > range.from.0 {
                break;
            }
            queue.push_back((seq, rows[(seq - range.part_first.0) as usize]));
        }
        let most = if range.via == Via::Main { LANE_OUT_MAX as usize } else { 1 };
        if queue.len() > most {
            self.fail(format!("R7: {} records of {place:?} are out", queue.len()));
        }
        Event::Handed { lane: range.lane, to: range.to, via: range.via, stopped: None }
    }

    fn commit(
        &mut self,
        owner: &mut Owner,
        settle: &[PartRef],
        claim: Option<ClaimKind>,
        hold: &[TopicIx],
    ) -> Event {
        for part in settle {
            self.settle(owner, part);
        }
        let mut committed =
            Committed { settled: settle.to_vec(), claim, held: hold.to_vec(), ..Committed::default() };
        for ix in hold {
            self.database.held[topic_number(&owner.machine, *ix)] = true;
        }
        let rows: Vec<Row> = match claim {
            None => Vec::new(),
            Some(ClaimKind::Live) => {
                let to = owner.read.take().expect("a live claim claims what was read");
                let from = std::mem::replace(&mut self.database.claimed_through, to);
                let open = |row: &Row| !self.database.held[self.database.rows[*row].place.0];
                (from..to).filter(open).collect()
            }
            Some(ClaimKind::Held(ix)) => {
                let t = topic_number(&owner.machine, ix);
                let held = |row: &Row| {
                    let row = &self.database.rows[*row];
                    row.place.0 == t && !row.claimed
                };
                let rows: Vec<Row> = (0..self.database.claimed_through).filter(held).collect();
                committed.hold_ended = rows.len() <= BATCH_ROWS;
                self.database.held[t] = !committed.hold_ended;
                rows.into_iter().take(BATCH_ROWS).collect()
            }
        };
        committed.batch = self.number(owner, &rows);
        Event::Committed(committed)
    }

    fn number(&mut self, owner: &mut Owner, rows: &[Row]) -> Option<(BatchNo, Vec<NewPart>)> {
        let mut by_place: BTreeMap<Place, Vec<Row>> = BTreeMap::new();
        for row in rows {
            self.database.rows[*row].claimed = true;
            by_place.entry(self.database.rows[*row].place).or_default().push(*row);
        }
        if by_place.is_empty() {
            return None;
        }
        let batch = self.database.batches.len() as i64;
        let mut parts = Vec::new();
        let mut written = Vec::new();
        for (place, rows) in by_place {
            let lane =
                self.database.lanes.get_mut(&place).expect("an epoch is open before rows are numbered");
            let first = lane.next_seq;
            lane.next_seq += rows.len() as u64;
            for (nth, row) in rows.iter().enumerate() {
                let number = (place, first + nth as u64);
                if self.numbers.insert(number, *row).is_some_and(|other| other != *row) {
                    self.wrong.get_or_insert(format!("R2: {number:?} was given twice"));
                }
            }
            let ix = owner.machine.find(&name(place.0)).unwrap();
            let lane = owner.machine.lanes_of(ix)[place.1];
            let (place_in, count) = (parts.len() as u32, rows.len() as u32);
            parts.push(NewPart { lane, place: place_in, first: Seq(first), rows: count });
            written.push(DbPart { place, first, rows, settled: false });
        }
        let memory = written.iter().map(|part| (part.place, part.first, part.rows.clone())).collect();
        owner.memory.insert(batch, memory);
        self.database.batches.push(written);
        Some((BatchNo(batch), parts))
    }

    /// R4: each seq of a settled part is void because it is bad, or at its place in the log.
    fn settle(&mut self, owner: &Owner, part: &PartRef) {
        let place = place_of(&owner.machine, part.lane);
        let mut seq = part.first.0;
        let mut end = 0;
        for run in owner.machine.fates_of(part).collect::<Vec<_>>() {
            for nth in 0..run.rows {
                let number = (place, run.first.0 + nth);
                let row = self.numbers[&number];
                let sound = match run.at {
                    None => self.database.rows[row].bad && self.database.voided.insert(number),
                    Some(at) => {
                        let at = at.0 as u64 + nth;
                        end = end.max(at as i64 + 1);
                        self.log[&place].get(at as usize) == Some(&(number.1, row))
                    }
                };
                if !sound || number.1 != seq {
                    self.fail(format!("R4: {number:?} is settled without proof"));
                }
                seq += 1;
            }
        }
        let lane = self.database.lanes.get_mut(&place).unwrap();
        if lane.settled + 1 != part.first.0 || seq != part.first.0 + u64::from(part.rows) {
            self.wrong.get_or_insert(format!("{place:?} is settled out of order or not whole: {part:?}"));
        }
        lane.settled = seq - 1;
        lane.next_offset = lane.next_offset.max(end);
        let batch = &mut self.database.batches[part.batch.0 as usize];
        batch.iter_mut().find(|known| known.place == place).unwrap().settled = true;
    }

    fn load(&mut self, owner: &mut Owner, lane: LaneIx, from: Seq) -> Event {
        let place = place_of(&owner.machine, lane);
        let holds = |part: &DbPart| {
            part.place == place && part.first <= from.0 && from.0 < part.first + part.rows.len() as u64
        };
        let found = self.database.batches.iter().position(|parts| parts.iter().any(holds));
        let Some(batch) = found else {
            self.fail(format!("{place:?} has no seq {from} in a manifest"));
            return Event::Nothing;
        };
        if owner.memory.contains_key(&(batch as i64)) {
            self.fail(format!("batch {batch} is read again though it is in memory"));
        }
        let parts = &self.database.batches[batch];
        let unsettled = parts.iter().enumerate().filter(|(_, part)| !part.settled);
        let parts_of = unsettled.map(|(at, part)| {
            let ix = owner.machine.find(&name(part.place.0)).unwrap();
            NewPart {
                lane: owner.machine.lanes_of(ix)[part.place.1],
                place: at as u32,
                first: Seq(part.first),
                rows: part.rows.len() as u32,
            }
        });
        let event = Event::Loaded { batch: BatchNo(batch as i64), parts: parts_of.collect() };
        let memory = parts.iter().map(|part| (part.place, part.first, part.rows.clone())).collect();
        owner.memory.insert(batch as i64, memory);
        event
    }

    /// The broker deals with the next record of a place; `acked`: its answer arrives.
    pub fn broker(&mut self, place: Place, via: Via, acked: bool) {
        let Some(mut owner) = self.owner.take() else { return };
        let queue = if via == Via::Main { &mut owner.main } else { &mut owner.probe };
        let head = queue.as_mut().and_then(|queue| queue.of.get_mut(&place)?.front().copied());
        if let Some((seq, row)) = head
            && !(via == Via::Main && owner.heard.main_fatal)
        {
            let lane = owner.machine.lanes_of(owner.machine.find(&name(place.0)).unwrap())[place.1];
            let code = match self.outages[&place] {
                Outage::Silent => None,
                Outage::Refuse(code) => Some(code),
                Outage::None if self.database.rows[row].bad => Some(87),
                Outage::None => Some(0),
            };
            let of = &mut queue.as_mut().unwrap().of;
            match code {
                None => {}
                Some(0) => {
                    of.get_mut(&place).unwrap().pop_front();
                    self.append(place, seq, row);
                    let offset = Offset(self.log[&place].len() as i64 - 1);
                    if acked {
                        owner.heard.acks.push(Ack { via, lane, first: Seq(seq), rows: 1, offset });
                    } else {
                        // Taken, and the answer is lost for good: the producer ends.
                        owner.heard.failures.push(Failed { via, lane, seq: Seq(seq), code: None });
                        if via == Via::Main {
                            owner.heard.main_fatal = true
                        }
                    }
                }
                Some(code) if via == Via::Probe => {
                    of.get_mut(&place).unwrap().pop_front();
                    owner.heard.failures.push(Failed { via, lane, seq: Seq(seq), code: Some(code) });
                }
                Some(code) => {
                    // None may overtake the refused one: the whole producer ends.
                    owner.heard.failures.push(Failed { via, lane, seq: Seq(seq), code: Some(code) });
                    owner.heard.main_fatal = true;
                }
            }
        }
        self.owner = Some(owner);
    }

    /// R1, R2, R3: what enters the log is numbered durably, once, and overtakes nothing.
    fn append(&mut self, place: Place, seq: u64, row: Row) {
        if self.numbers.get(&(place, seq)) != Some(&row) {
            self.fail(format!("R1: {place:?} seq {seq} is in the log without its manifest"));
        }
        let log = self.log.get_mut(&place).unwrap();
        if log.iter().all(|(known, _)| *known != seq) {
            let before: BTreeSet<u64> = log.iter().map(|(seq, _)| *seq).collect();
            let skipped = (1..seq).find(|s| {
                !before.contains(s)
                    && !self.numbers.get(&(place, *s)).is_some_and(|row| self.database.rows[*row].bad)
            });
            if let Some(skipped) = skipped {
                self.wrong.get_or_insert(format!("R3: {place:?} seq {seq} overtakes {skipped}"));
            }
        }
        self.log.get_mut(&place).unwrap().push((seq, row));
    }

    /// Up to `most` records of each queue of those that are gone arrive after all.
    pub fn drain_zombies(&mut self, most: usize) {
        for mut queue in std::mem::take(&mut self.zombies) {
            for (place, records) in &mut queue.of {
                for _ in 0..most {
                    let Some((seq, row)) = records.front().copied() else { break };
                    if self.outages[place] != Outage::None || self.database.rows[row].bad {
                        break;
                    }
                    records.pop_front();
                    self.append(*place, seq, row);
                }
            }
            self.zombies.push(queue);
        }
    }

    pub fn set_outage(&mut self, place: Place, outage: Outage) {
        self.outages.insert(place, outage);
        if outage != Outage::Silent
            && let Some(owner) = &mut self.owner
        {
            let machine = &owner.machine;
            let (due, rest) = owner.tails.drain(..).partition(|q| place_of(machine, q.lane) == place);
            owner.tails = rest;
            let due: Vec<TailQuestion> = due;
            let log = &self.log[&place];
            owner.heard.seen.extend(due.into_iter().map(|question| tail_of(log, question)));
        }
    }

    /// All is well from now on: everything must get through.
    pub fn heal(&mut self) {
        self.shown = [true; TOPICS];
        self.database.busy = 0;
        self.database.lost_answer = None;
        self.zombies.clear();
        for place in self.outages.keys().copied().collect::<Vec<_>>() {
            self.set_outage(place, Outage::None);
        }
    }

    /// Works, with the broker answering all, for so many rounds.
    pub fn work(&mut self, rounds: usize) {
        let places: Vec<Place> = self.log.keys().copied().collect();
        for _ in 0..rounds {
            for _ in 0..200 {
                if !self.step() || self.wrong.is_some() {
                    break;
                }
            }
            for place in &places {
                for via in [Via::Main, Via::Probe] {
                    for _ in 0..LANE_OUT_MAX {
                        self.broker(*place, via, true);
                    }
                }
            }
            self.pass(10);
            if self.wrong.is_some() || self.is_done() {
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.database.claimed_through == self.database.rows.len()
            && self.database.held == [false; TOPICS]
            && self.database.lanes.values().all(|lane| lane.settled + 1 == lane.next_seq)
    }

    /// R6, and the order contract: everything is settled, in the log, and in commit order per lane.
    pub fn check_done(&mut self) {
        if !self.is_done() {
            let state = self.owner.as_ref().map(|owner| (&owner.machine, &owner.next));
            self.fail(format!("R6: not everything is settled; {:?}; {state:#?}", self.database.lanes));
        }
        for (nth, row) in self.database.rows.iter().enumerate() {
            let arrived = self.log[&row.place].iter().any(|(_, known)| *known == nth);
            if arrived == row.bad {
                self.wrong.get_or_insert(format!("R6: row {nth} ({row:?}) is in the log: {arrived}"));
            }
        }
        let mut last: BTreeMap<Place, Row> = BTreeMap::new();
        for ((place, seq), row) in &self.numbers {
            if last.insert(*place, *row).is_some_and(|before| before >= *row) {
                self.wrong.get_or_insert(format!("{place:?}: row {row} got seq {seq} out of commit order"));
            }
        }
    }

    /// Rows of these places that are settled, and all of them.
    pub fn settled_of(&self, places: &[Place]) -> (u64, u64) {
        let settled =
            places.iter().filter_map(|place| self.database.lanes.get(place)).map(|l| l.settled).sum();
        let all = self.database.rows.iter().filter(|row| places.contains(&row.place)).count() as u64;
        (settled, all)
    }
}

fn tail_of(log: &[(u64, Row)], question: TailQuestion) -> Seen {
    let from = question.from.0 as usize;
    let records = log.iter().enumerate().skip(from).filter(|(_, (seq, _))| *seq >= question.first.0);
    let found = records.map(|(at, (seq, _))| (Seq(*seq), Offset(at as i64))).collect();
    Seen::Tail(TailRead { lane: question.lane, found, end: Offset(log.len() as i64), cut: false })
}

fn topic_number(machine: &Machine, ix: TopicIx) -> usize {
    machine.name(ix).as_str()[1..].parse().unwrap()
}

fn place_of(machine: &Machine, lane: LaneIx) -> Place {
    let ix = machine.lane_topic(lane);
    let partition = machine.lanes_of(ix).iter().position(|known| *known == lane).unwrap_or_default();
    (topic_number(machine, ix), partition)
}
