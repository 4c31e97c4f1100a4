//! The keys that are parked: their later records are not handled but follow the first.

use super::dispatch::{Job, SlotIndex};
use homing_core::Offset;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

/// Parked keys, each with the offset of the record that parked it. In memory only.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    count: AtomicUsize,
    /// Guards the keys; read once a record while any key is parked.
    keys: RwLock<HashMap<SlotIndex, HashMap<Vec<u8>, Offset>>>,
}

impl Parked {
    /// Whether any key is parked: one load.
    #[inline]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// The record that parked this job's key.
    pub fn first_of(&self, job: &Job) -> Option<Offset> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&job.slot)?.get(job.record.key()?).copied().filter(|first| *first != job.token.offset)
    }

    /// Parks the job's key; `false` when `max` keys are parked already. A record without a key
    /// parks nothing.
    pub fn park(&self, job: &Job, max: usize) -> bool {
        let Some(key) = job.record.key() else { return true };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let of_slot = keys.entry(job.slot).or_default();
        if of_slot.contains_key(key) {
            return true;
        }
        if self.count.load(Ordering::Relaxed) >= max {
            return false;
        }
        of_slot.insert(key.to_vec(), job.token.offset);
        self.count.fetch_add(1, Ordering::Release);
        true
    }

    /// Forgets the keys of a partition that is given up.
    pub fn forget(&self, slot: SlotIndex) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(gone) = keys.remove(&slot) {
            self.count.fetch_sub(gone.len(), Ordering::Release);
        }
    }
}
