//! The partitions this consumer holds, and what it knows of each.

use super::alarm::Alarm;
use super::continuity::Continuity;
use super::dispatch::SlotIndex;
use super::holes::Holes;
use super::watch::Hearing;
use crate::kafka::TopicId;
use crate::kafka::partition_list::{Entry, TopicPartition};
use crate::kafka::record::Record;
use homing_core::{AssignmentEpoch, CommitMap, Offset, Registered, Tracker};
use std::collections::HashMap;

/// One partition held under one assignment.
pub(crate) struct Slot {
    pub at: TopicPartition,
    pub index: SlotIndex,
    pub topic_id: Option<TopicId>,
    pub tracker: Tracker,
    pub continuity: Continuity,
    /// Jobs let go unfinished because the slot is closing; the tracker still counts them.
    pub released: usize,
    /// Offset and metadata of the last commit that was acknowledged.
    pub committed: Option<(Offset, String)>,
    /// Something has changed since the last look at what to commit.
    pub touched: bool,
    /// The client has it in its assignment.
    pub taken_on: bool,
    /// Not fetched, because its window is full.
    pub paused: bool,
    /// The alarm that one record holds the partition up.
    pub alarm: Alarm,
    pub holes: Holes,
    pub hearing: Hearing,
    /// The last batch of which this partition's records were dropped, because the client was told
    /// to read them again.
    pub dropped_of_batch: u64,
    /// Characters of a commit map; less than there may be when the broker allows less.
    pub map_chars_max: usize,
    /// Not fetched, because it has more than its share of what may wait.
    pub over_share: bool,
    /// Records finished since the last look at the shares.
    pub finished_lately: u64,
    /// Where leader epochs begin, as far as read.
    epochs: Vec<(Offset, i32)>,
    /// The newest leader epoch whose records the restored map speaks of.
    map_epoch: i32,
}

impl Slot {
    pub fn new(
        (at, index): (TopicPartition, SlotIndex),
        topic_id: Option<TopicId>,
        tracker: Tracker,
        (leader_epoch, map_epoch): (Option<i32>, i32),
    ) -> Self {
        let continuity = Continuity::new(at.partition);
        let base = tracker.committable();
        let epochs = leader_epoch.map(|epoch| (Offset(base.0 - 1), epoch)).into_iter().collect();
        Self {
            at,
            index,
            topic_id,
            tracker,
            continuity,
            released: 0,
            committed: None,
            touched: false,
            taken_on: false,
            paused: false,
            alarm: Alarm::default(),
            holes: Holes::default(),
            hearing: Hearing::default(),
            dropped_of_batch: 0,
            map_chars_max: CommitMap::CHARS_MAX,
            over_share: false,
            finished_lately: 0,
            epochs,
            map_epoch,
        }
    }

    /// Takes a record in, before it is handed out.
    #[inline]
    pub fn register(&mut self, record: &Record) -> Registered {
        let offset = record.offset();
        if let Some(epoch) = record.leader_epoch() {
            if self.epochs.last().is_none_or(|(_, last)| *last < epoch) {
                self.epochs.push((offset, epoch));
            }
            if epoch > self.map_epoch {
                // The log was cut and written anew from here on: the map speaks of other records.
                self.tracker.forget_restored_from(offset);
            }
        }
        self.tracker.register(offset)
    }

    /// The leader epoch of the last record below `offset`.
    pub fn epoch_below(&self, offset: Offset) -> Option<i32> {
        self.epochs.iter().rev().find(|(start, _)| *start < offset).map(|(_, epoch)| *epoch)
    }

    /// Where to read on.
    pub fn read_on(&self) -> Entry {
        let position = self.tracker.position();
        let leader_epoch = self.epoch_below(position);
        Entry { offset: position.0, leader_epoch, ..Entry::of(self.at.clone()) }
    }

    /// The newest leader epoch read or restored.
    pub fn newest_epoch(&self) -> i32 {
        self.epochs.last().map_or(self.map_epoch, |(_, epoch)| (*epoch).max(self.map_epoch))
    }

    /// Forgets epochs that no commit can need any more.
    pub fn prune_epochs(&mut self) {
        let committable = self.tracker.committable();
        while self.epochs.get(1).is_some_and(|(start, _)| *start < committable) {
            self.epochs.remove(0);
        }
    }

    /// Records whose handler, or dead letter, is still under way.
    pub fn running(&self) -> usize {
        self.tracker.in_flight().saturating_sub(self.released)
    }
}

/// All partitions held.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Option<Slot>>,
    by_name: HashMap<TopicPartition, SlotIndex>,
    /// By the address of the topic in the client, which spares reading its name. Emptied
    /// whenever partitions come or go, as addresses may then be used again.
    by_address: HashMap<(usize, i32), SlotIndex>,
    last: Option<((usize, i32), SlotIndex)>,
    assignments: u64,
}

impl Slots {
    /// A new assignment epoch.
    pub fn next_assignment(&mut self) -> AssignmentEpoch {
        self.assignments += 1;
        AssignmentEpoch(self.assignments)
    }

    /// A free place.
    pub fn free(&self) -> SlotIndex {
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        SlotIndex(u32::try_from(at).expect("a consumer holds far fewer than 2^32 partitions"))
    }

    pub fn insert(&mut self, slot: Slot) {
        self.forget_addresses();
        let at = slot.index.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.by_name.insert(slot.at.clone(), slot.index);
        self.slots[at] = Some(slot);
    }

    pub fn remove(&mut self, index: SlotIndex) -> Option<Slot> {
        self.forget_addresses();
        let slot = self.slots.get_mut(index.0 as usize)?.take()?;
        self.by_name.remove(&slot.at);
        Some(slot)
    }

    fn forget_addresses(&mut self) {
        self.by_address.clear();
        self.last = None;
    }

    /// The slot a record belongs to.
    #[inline]
    pub fn of(&mut self, record: &Record) -> Option<SlotIndex> {
        let place = (record.topic_address(), record.partition().0);
        match self.last {
            Some((last, index)) if last == place => Some(index),
            _ => self.find(place, record),
        }
    }

    fn find(&mut self, place: (usize, i32), record: &Record) -> Option<SlotIndex> {
        let index = match self.by_address.get(&place) {
            Some(index) => *index,
            None => {
                let of_topic = |at: &TopicPartition| at.topic.as_str() == record.topic();
                let held = self.by_name.iter().find(|(at, _)| at.partition.0 == place.1 && of_topic(at));
                let index = *held?.1;
                self.by_address.insert(place, index);
                index
            }
        };
        self.last = Some((place, index));
        Some(index)
    }

    pub fn get(&self, index: SlotIndex) -> Option<&Slot> {
        self.slots.get(index.0 as usize)?.as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, index: SlotIndex) -> Option<&mut Slot> {
        self.slots.get_mut(index.0 as usize)?.as_mut()
    }

    pub fn named(&self, at: &TopicPartition) -> Option<SlotIndex> {
        self.by_name.get(at).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().flatten()
    }

    pub fn indices(&self) -> Vec<SlotIndex> {
        self.iter().map(|slot| slot.index).collect()
    }
}
