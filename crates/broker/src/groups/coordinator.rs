//! The groups of one broker: parks requests, keeps the clock, stores what must survive.
//!
//! All groups live behind one lock, held only for steps in memory (never across an `await`).
//! A change that must survive is queued in the journal under that lock, so the journal has the
//! order in which the groups saw things; whoever waits for an answer then waits for the
//! journal outside the lock. Committed offsets become visible when they are durable, in the
//! journal's order.
//!
//! A crash at each step:
//! - before the journal has an append: the client has no answer, the old state stands;
//! - after it, before the answer: the new state stands, the client repeats itself (the same
//!   commit again, or a join that finds its generation);
//! - a member that was told of a generation always finds that generation after a restart.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kafka_protocol::ResponseError;
use tokio::sync::{Notify, oneshot};

use super::group::Group;
use super::journal::{Entry, Journal, JournalError, JournalOptions, Position};
use super::messages::{Answer, Effects, Identity, Join, JoinRefused, Joined, Sync, Synced, Ticket};
use super::offsets::{Committed, GroupOffsets, Place};
use super::options::GroupOptions;
use super::record::{GroupRecord, Key, decode_offset, encode_offset};
use super::snapshot::Description;

/// Coordinates all groups of a broker.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) options: Arc<GroupOptions>,
    pub(super) journal: Journal,
    /// Guards every group, every parked request and the offsets not yet durable.
    state: Mutex<State>,
    /// Told when a deadline came up that is earlier than the one the clock waits for.
    earlier: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub groups: HashMap<String, Entity>,
    parked: HashMap<Ticket, oneshot::Sender<(Answer, Position)>>,
    last_ticket: u64,
    /// Offsets in the journal's queue, in its order.
    undurable: VecDeque<(Position, Change)>,
    /// What the clock waits for.
    alarm: Option<Instant>,
}

/// A change of offsets that takes effect once durable.
#[derive(Debug)]
pub(super) struct Change {
    pub group: String,
    pub set: Vec<(Place, Committed)>,
    pub removed: Vec<Place>,
}

/// One group with all that is kept beside its state machine.
#[derive(Debug)]
pub(super) struct Entity {
    pub group: Group,
    pub offsets: GroupOffsets,
    /// Wall clock; set while nobody is in it.
    pub empty_since_ms: Option<i64>,
    /// The journal position of its last stored form; answers wait for it.
    stored: Position,
}

impl Coordinator {
    /// Reads the journal back and serves its groups on.
    ///
    /// # Errors
    /// When the journal cannot be read or repaired, or the options contradict each other.
    pub fn open(options: GroupOptions, journal: JournalOptions) -> io::Result<Self> {
        options.validate().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let (journal, live) = Journal::open(journal)?;
        let options = Arc::new(options);
        let mut state = State::default();
        let now = Instant::now();
        for (key, value) in live {
            let Some(key) = Key::decode(key) else {
                unreadable("a key");
                continue;
            };
            match key {
                Key::Group { group } => match GroupRecord::decode(value) {
                    Some(record) => {
                        let entity = state.entity(&options, &group);
                        entity.empty_since_ms = record.empty_since_ms;
                        entity.group = Group::restore(Arc::clone(&options), record, now);
                    }
                    None => unreadable(&group),
                },
                Key::Offset { group, topic, partition } => match decode_offset(value) {
                    Some(committed) => {
                        let entity = state.entity(&options, &group);
                        entity.offsets.set(Place { topic, partition }, committed);
                    }
                    None => unreadable(&group),
                },
            }
        }
        Ok(Self { options, journal, state: Mutex::new(state), earlier: Notify::new() })
    }

    /// JoinGroup: waits until the group's next generation is there.
    ///
    /// # Errors
    /// Kafka's own codes.
    ///
    /// # Cancel safety
    /// A dropped future leaves the member joined; it is removed by its session timeout.
    pub async fn join(&self, group: &str, join: Join) -> Result<Joined, JoinRefused> {
        let member_id = join.identity.member_id.clone();
        let refuse = |error| JoinRefused { error, member_id: member_id.clone() };
        // Before the group is looked for, as Kafka does.
        let allowed = self.options.session_timeout_min..=self.options.session_timeout_max;
        if !allowed.contains(&join.session_timeout) {
            return Err(refuse(ResponseError::InvalidSessionTimeout));
        }
        let (answer, stored) = {
            let mut state = self.lock();
            if !state.groups.contains_key(group) {
                if !member_id.is_empty() {
                    return Err(refuse(ResponseError::UnknownMemberId));
                }
                if state.groups.len() >= self.options.groups_max {
                    return Err(refuse(ResponseError::CoordinatorNotAvailable));
                }
            }
            let (ticket, receiver) = state.park();
            let effects = state.entity(&self.options, group).group.join(Instant::now(), join, ticket);
            self.settle(&mut state, group, effects);
            state.drop_if_untouched(group);
            receiver
        }
        .await
        .map_err(|_| refuse(ResponseError::CoordinatorNotAvailable))?;
        self.until_stored(stored).await.map_err(refuse)?;
        match answer {
            Answer::Join(_, result) => result,
            Answer::Sync(..) => Err(refuse(ResponseError::UnknownServerError)),
        }
    }

    /// SyncGroup: waits until the leader's assignment is there and durable.
    ///
    /// # Errors
    /// Kafka's own codes.
    ///
    /// # Cancel safety
    /// As [`Self::join`].
    pub async fn sync(&self, group: &str, sync: Sync) -> Result<Synced, ResponseError> {
        let (answer, stored) = {
            let mut state = self.lock();
            if !state.groups.contains_key(group) {
                return Err(ResponseError::UnknownMemberId);
            }
            let (ticket, receiver) = state.park();
            let effects = state.entity(&self.options, group).group.sync(Instant::now(), sync, ticket);
            self.settle(&mut state, group, effects);
            receiver
        }
        .await
        .map_err(|_| ResponseError::CoordinatorNotAvailable)?;
        self.until_stored(stored).await?;
        match answer {
            Answer::Sync(_, result) => result,
            Answer::Join(..) => Err(ResponseError::UnknownServerError),
        }
    }

    /// Heartbeat.
    ///
    /// # Errors
    /// Kafka's own codes; `REBALANCE_IN_PROGRESS` asks the member to join again.
    pub fn heartbeat(&self, group: &str, identity: &Identity, generation: i32) -> Result<(), ResponseError> {
        match self.lock().groups.get_mut(group) {
            Some(entity) => entity.group.heartbeat(Instant::now(), identity, generation),
            None => Err(ResponseError::UnknownMemberId),
        }
    }

    /// LeaveGroup for one member.
    ///
    /// # Errors
    /// Kafka's own codes.
    pub fn leave(&self, group: &str, identity: &Identity) -> Result<(), ResponseError> {
        let mut state = self.lock();
        let Some(entity) = state.groups.get_mut(group) else {
            return Err(ResponseError::UnknownMemberId);
        };
        let (result, effects) = entity.group.leave(Instant::now(), identity);
        self.settle(&mut state, group, effects);
        result
    }

    /// All groups: id, protocol type and state.
    pub fn list(&self) -> Vec<(String, String, &'static str)> {
        let state = self.lock();
        let mut list: Vec<_> = state
            .groups
            .iter()
            .map(|(id, entity)| (id.clone(), entity.group.protocol_type(), entity.group.state_name()))
            .collect();
        list.sort();
        list
    }

    /// One group; none when it does not exist (Kafka: `Dead`).
    pub fn describe(&self, group: &str) -> Option<Description> {
        self.lock().groups.get(group).map(|entity| entity.group.describe())
    }

    /// Keeps the time: ends sessions and rebalances when they are due and forgets offsets that
    /// outlived their retention. Returns when `stop` is ready.
    ///
    /// # Cancel safety
    /// Nothing is lost; call it again to go on.
    pub async fn run_clock(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut next_expiry = Instant::now() + self.options.offsets_retention_check;
        loop {
            if Instant::now() >= next_expiry {
                self.forget_expired(wall_ms());
                next_expiry = Instant::now() + self.options.offsets_retention_check;
            }
            let alarm = self.tick(Instant::now()).map_or(next_expiry, |at| at.min(next_expiry));
            tokio::select! {
                () = &mut stop => return,
                () = self.earlier.notified() => {}
                () = tokio::time::sleep_until(alarm.into()) => {}
            }
        }
    }

    /// Ticks every group that is due and returns the next deadline of all.
    fn tick(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let due: Vec<String> = state
            .groups
            .iter()
            .filter(|(_, entity)| entity.group.next_deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            if let Some(entity) = state.groups.get_mut(&id) {
                let effects = entity.group.tick(now);
                self.settle(&mut state, &id, effects);
            }
        }
        state.alarm = state.groups.values().filter_map(|entity| entity.group.next_deadline()).min();
        state.alarm
    }

    /// Carries out what a step asked for: store first, then answer.
    fn settle(&self, state: &mut State, id: &str, effects: Effects) {
        let Some(entity) = state.groups.get_mut(id) else { return };
        if !entity.group.is_empty() {
            entity.empty_since_ms = None;
        } else if entity.empty_since_ms.is_none() {
            entity.empty_since_ms = Some(wall_ms());
        }
        let mut stored = Ok(entity.stored);
        if effects.store {
            let value = entity.group.record(entity.empty_since_ms).encode();
            let key = Key::Group { group: id.to_owned() }.encode();
            stored = self.journal.append(vec![Entry { key, value: Some(value) }]);
            if let Ok(position) = stored {
                entity.stored = position;
            }
        }
        let deadline = entity.group.next_deadline();
        for answer in effects.answers {
            state.answer(answer, stored);
        }
        if let Some(deadline) = deadline
            && state.alarm.is_none_or(|alarm| deadline < alarm)
        {
            state.alarm = Some(deadline);
            self.earlier.notify_one();
        }
    }

    async fn until_stored(&self, stored: Position) -> Result<(), ResponseError> {
        match tokio::time::timeout(self.options.commit_timeout, self.journal.durable(stored)).await {
            Ok(Ok(())) => Ok(()),
            // Retriable: the client finds its coordinator again and repeats itself.
            Ok(Err(_)) | Err(_) => Err(ResponseError::CoordinatorNotAvailable),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held is a bug in a state machine step; one group may then be in a
        // wrong state, which its sessions' end mends. Refusing all groups would be worse.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.apply_durable(self.journal.durable_position());
        state
    }
}

impl State {
    pub fn entity(&mut self, options: &Arc<GroupOptions>, id: &str) -> &mut Entity {
        self.groups.entry(id.to_owned()).or_insert_with(|| Entity {
            group: Group::new(Arc::clone(options)),
            offsets: GroupOffsets::default(),
            empty_since_ms: None,
            stored: Position::default(),
        })
    }

    /// Queues a change of offsets in the journal; it takes effect when durable.
    pub fn change(&mut self, journal: &Journal, change: Change) -> Result<Position, JournalError> {
        let key = |place: &Place| {
            let Place { topic, partition } = place.clone();
            Key::Offset { group: change.group.clone(), topic, partition }.encode()
        };
        let set = change.set.iter().map(|(at, c)| Entry { key: key(at), value: Some(encode_offset(c)) });
        let removed = change.removed.iter().map(|at| Entry { key: key(at), value: None });
        let position = journal.append(set.chain(removed).collect())?;
        self.undurable.push_back((position, change));
        Ok(position)
    }

    fn apply_durable(&mut self, durable: Position) {
        while self.undurable.front().is_some_and(|(position, _)| *position <= durable) {
            let Some((_, change)) = self.undurable.pop_front() else { return };
            let Some(entity) = self.groups.get_mut(&change.group) else { continue };
            for (place, committed) in change.set {
                entity.offsets.set(place, committed);
            }
            for place in change.removed {
                entity.offsets.remove(&place);
            }
        }
    }

    /// Whether offsets of this group are on their way to the disk.
    pub fn has_undurable(&self, group: &str) -> bool {
        self.undurable.iter().any(|(_, change)| change.group == group)
    }

    /// A refused first join leaves no group behind.
    pub fn drop_if_untouched(&mut self, group: &str) {
        let untouched = |e: &Entity| e.group.is_untouched() && e.offsets.is_empty();
        if self.groups.get(group).is_some_and(untouched) && !self.has_undurable(group) {
            self.groups.remove(group);
        }
    }

    fn park(&mut self) -> (Ticket, oneshot::Receiver<(Answer, Position)>) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let (sender, receiver) = oneshot::channel();
        self.parked.insert(ticket, sender);
        (ticket, receiver)
    }

    fn answer(&mut self, answer: Answer, stored: Result<Position, JournalError>) {
        let ticket = match &answer {
            Answer::Join(ticket, _) | Answer::Sync(ticket, _) => *ticket,
        };
        let Some(sender) = self.parked.remove(&ticket) else { return };
        // A dropped sender is answered with a retriable error by whoever waits. A dropped
        // receiver is a connection that closed: nobody is there to tell.
        if let Ok(position) = stored {
            let _ = sender.send((answer, position));
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn unreadable(what: &str) {
    tracing::error!(what, "a record of the group journal cannot be read by this version; it is ignored");
}
