//! Remembers which message recent numbers belonged to, to tell a fork from a duplicate.

use super::Seen;
use crate::stamp::PayloadCrc;

/// What tells one message from another: its checksum and a hash of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The checksum of key and payload.
    pub crc: PayloadCrc,
    /// A hash of the id; `None` when the record had none.
    pub id_hash: Option<u64>,
}

impl Fingerprint {
    /// The fingerprint of a record.
    #[must_use]
    pub fn of(seen: &Seen) -> Self {
        Self { crc: seen.crc, id_hash: seen.id.map(hash_id) }
    }

    /// Whether both are of one message, as far as they tell.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let ids = self.id_hash.zip(other.id_hash);
        self.crc == other.crc && ids.is_none_or(|(one, two)| one == two)
    }
}

/// Both halves of the id, mixed so that ids made in one millisecond differ.
fn hash_id(id: [u8; 16]) -> u64 {
    let id = u128::from_be_bytes(id);
    let (high, low) = ((id >> 64) as u64, id as u64);
    high.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ low
}

/// One slot per number modulo the capacity; each keeps the highest number it met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Memory {
    slots: Vec<Slot>,
    capacity: usize,
}

/// A number, 0 when the slot is free, and what it was seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    seq: u64,
    fingerprint: Fingerprint,
}

const FREE: Slot = Slot { seq: 0, fingerprint: Fingerprint { crc: PayloadCrc(0), id_hash: None } };

impl Memory {
    pub(super) fn new(capacity: usize) -> Self {
        Self { slots: Vec::new(), capacity }
    }

    #[inline]
    pub(super) fn remember(&mut self, seq: u64, fingerprint: Fingerprint) {
        if self.capacity == 0 {
            return;
        }
        if self.slots.is_empty() {
            self.slots.resize(self.capacity, FREE);
        }
        let slot = &mut self.slots[(seq % self.capacity as u64) as usize];
        if slot.seq <= seq {
            *slot = Slot { seq, fingerprint };
        }
    }

    pub(super) fn recall(&self, seq: u64) -> Option<Fingerprint> {
        let at = seq.checked_rem(self.slots.len() as u64)?;
        let slot = &self.slots[at as usize];
        (slot.seq == seq && seq != 0).then_some(slot.fingerprint)
    }

    /// All that is remembered, in no particular order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, Fingerprint)> + '_ {
        self.slots.iter().filter(|slot| slot.seq != 0).map(|slot| (slot.seq, slot.fingerprint))
    }
}
