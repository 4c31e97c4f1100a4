//! A batch's rows in memory: one arena of bytes, checked once, read many times without allocating.

use super::headers::{self, PackedHeaders};
use super::identity::{self, Instance};
use super::store::{RejectCode, Rejected, RowId};
use homing_core::{Flags, TopicName};
use std::ops::Range;

/// The most bytes one row may have; a larger one is rejected unread. Also the
/// limit at enqueue.
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// One column's value as the database has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// SQL null.
    Null,
    /// A text's UTF-8 or a blob's bytes.
    Bytes(&'a [u8]),
    /// An integer, taken as its decimal text.
    Integer(i64),
    /// A type no column here takes.
    Other,
}

/// One row as the database has it, borrowed from its cursor.
#[derive(Debug, Clone, Copy)]
pub struct RawRow<'a> {
    /// The row's id.
    pub id: RowId,
    /// Column `topic`.
    pub topic: Cell<'a>,
    /// Column `message_key`.
    pub key: Cell<'a>,
    /// Column `payload`.
    pub payload: Cell<'a>,
    /// Column `payload_text`.
    pub payload_text: Cell<'a>,
    /// Column `headers`.
    pub headers: Cell<'a>,
    /// Column `message_id`.
    pub message_id: Cell<'a>,
    /// Column `flags`.
    pub flags: Cell<'a>,
    /// Column `created_at_ms`.
    pub created_at_ms: i64,
}

#[derive(Debug, Clone)]
struct Slot {
    id: RowId,
    topic: u32,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Range<usize>,
    message_id: [u8; 16],
    flags: Flags,
}

/// A checked row, borrowed from its [`RowBuf`].
#[derive(Debug, Clone)]
pub struct RowRef<'a> {
    /// The row's id.
    pub id: RowId,
    /// Its topic's place in [`RowBuf::topics`].
    pub topic: usize,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The payload's bytes; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// The application's headers.
    pub headers: PackedHeaders<'a>,
    /// The message's identity.
    pub message_id: [u8; 16],
    /// What is special about it.
    pub flags: Flags,
}

impl RowRef<'_> {
    /// Bytes of key, payload and headers, as a bound for the record's size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.payload.map_or(0, <[u8]>::len) + self.headers.0.len()
    }
}

/// Rows in id order, with those set aside that can never be sent as they are.
#[derive(Debug, Default)]
pub struct RowBuf {
    arena: Vec<u8>,
    slots: Vec<Slot>,
    topics: Vec<TopicName>,
    faults: Vec<Rejected>,
    first: Option<RowId>,
    last: Option<RowId>,
}

impl RowBuf {
    /// Forgets all rows but keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.slots.clear();
        self.topics.clear();
        self.faults.clear();
        self.first = None;
        self.last = None;
    }

    /// Takes a row in: among the good ones, or among the faults.
    pub fn push(&mut self, instance: Instance, row: &RawRow<'_>) {
        self.first.get_or_insert(row.id);
        self.last = Some(row.id);
        let before = self.arena.len();
        match self.check(instance, row) {
            Ok(slot) => self.slots.push(slot),
            Err((code, reason)) => {
                self.arena.truncate(before);
                self.faults.push(Rejected { row: row.id, code, reason });
            }
        }
    }

    fn check(&mut self, instance: Instance, row: &RawRow<'_>) -> Result<Slot, (RejectCode, String)> {
        let topic = self.intern(row.topic)?;
        let payload = match (row.payload, row.payload_text) {
            (Cell::Null, text) => text,
            (bytes, Cell::Null) => bytes,
            _ => {
                return Err((RejectCode::Payload, "payload and payload_text are both set".to_owned()));
            }
        };
        let size = [row.key, payload, row.headers]
            .iter()
            .map(|cell| if let Cell::Bytes(bytes) = cell { bytes.len() } else { 0 })
            .sum::<usize>();
        if size > ROW_BYTES_MAX {
            let reason = format!("{size} bytes are more than an outbox row may have ({ROW_BYTES_MAX})");
            return Err((RejectCode::TooLarge, reason));
        }
        let key = self.keep(row.key).ok_or_else(|| {
            (RejectCode::Key, "message_key is neither bytes nor text nor an integer".to_owned())
        })?;
        let payload = self.keep(payload).ok_or_else(|| {
            (RejectCode::Payload, "the payload is neither bytes nor text nor an integer".to_owned())
        })?;
        let start = self.arena.len();
        match row.headers {
            Cell::Null => {}
            Cell::Bytes(json) => {
                headers::pack_json(json, &mut self.arena).map_err(|reason| (RejectCode::Headers, reason))?;
            }
            _ => return Err((RejectCode::Headers, "headers must be one JSON object".to_owned())),
        }
        let message_id = match row.message_id {
            Cell::Null => identity::derive(instance, row.id.0, row.created_at_ms),
            Cell::Bytes(cell) => identity::parse(cell).map_err(|reason| (RejectCode::MessageId, reason))?,
            _ => return Err((RejectCode::MessageId, "message_id is no UUID".to_owned())),
        };
        let flags = if let Cell::Bytes(flags) = row.flags { Flags::decode(flags) } else { Flags::default() };
        Ok(Slot { id: row.id, topic, key, payload, headers: start..self.arena.len(), message_id, flags })
    }

    /// Copies a cell into the arena; the outer `None` says that its type does not fit.
    #[allow(clippy::option_option)]
    fn keep(&mut self, cell: Cell<'_>) -> Option<Option<Range<usize>>> {
        let start = self.arena.len();
        match cell {
            Cell::Null => return Some(None),
            Cell::Bytes(bytes) => self.arena.extend_from_slice(bytes),
            Cell::Integer(n) => self.arena.extend_from_slice(n.to_string().as_bytes()),
            Cell::Other => return None,
        }
        Some(Some(start..self.arena.len()))
    }

    fn intern(&mut self, cell: Cell<'_>) -> Result<u32, (RejectCode, String)> {
        let Cell::Bytes(name) = cell else {
            return Err((RejectCode::TopicName, "topic must be text".to_owned()));
        };
        let last = self.slots.last().map_or(0, |slot| slot.topic);
        if self.topics.get(last as usize).is_some_and(|topic| topic.as_str().as_bytes() == name) {
            return Ok(last);
        }
        if let Some(at) = self.topics.iter().position(|topic| topic.as_str().as_bytes() == name) {
            return Ok(u32::try_from(at).expect("a batch has fewer topics than rows"));
        }
        let text =
            std::str::from_utf8(name).map_err(|_| (RejectCode::TopicName, "topic is no UTF-8".to_owned()))?;
        let topic = TopicName::parse(text).map_err(|error| (RejectCode::TopicName, error.to_string()))?;
        self.topics.push(topic);
        Ok(u32::try_from(self.topics.len() - 1).expect("a batch has fewer topics than rows"))
    }

    /// The topics its good rows go to, in order of first appearance.
    #[must_use]
    pub fn topics(&self) -> &[TopicName] {
        &self.topics
    }

    /// The rows that can never be sent as they are.
    #[must_use]
    pub fn faults(&self) -> &[Rejected] {
        &self.faults
    }

    /// How many good rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no good row; [`ends`](Self::ends) tells whether there is a fault.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes that were taken in for good rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// The first and last row id taken in, good or not.
    #[must_use]
    pub fn ends(&self) -> Option<(RowId, RowId)> {
        self.first.zip(self.last)
    }

    /// The good row at `index`.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    #[must_use]
    pub fn get(&self, index: usize) -> RowRef<'_> {
        let slot = &self.slots[index];
        RowRef {
            id: slot.id,
            topic: slot.topic as usize,
            key: slot.key.clone().map(|range| &self.arena[range]),
            payload: slot.payload.clone().map(|range| &self.arena[range]),
            headers: PackedHeaders(&self.arena[slot.headers.clone()]),
            message_id: slot.message_id,
            flags: slot.flags,
        }
    }

    /// The good rows in id order.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Leaves out the good rows of topics that `keep` says no to, without a fault: they are dealt
    /// with elsewhere. [`ends`](Self::ends) stay; returns how many rows went.
    pub fn retain_topics(&mut self, mut keep: impl FnMut(&TopicName) -> bool) -> usize {
        let before = self.slots.len();
        let kept: Vec<bool> = self.topics.iter().map(&mut keep).collect();
        if kept.iter().all(|kept| *kept) {
            return 0;
        }
        let mut place = 0;
        let places: Vec<u32> = kept
            .iter()
            .map(|kept| {
                let this = place;
                place += u32::from(*kept);
                this
            })
            .collect();
        self.slots.retain_mut(|slot| {
            let at = slot.topic as usize;
            slot.topic = places[at];
            kept[at]
        });
        let mut verdicts = kept.iter();
        self.topics.retain(|_| *verdicts.next().expect("a verdict for each topic"));
        before - self.slots.len()
    }

    /// Drops good rows for which `reject` gives a reason; they become faults.
    pub fn reject_where(&mut self, mut reject: impl FnMut(&RowRef<'_>) -> Option<(RejectCode, String)>) {
        let verdicts: Vec<_> = self.iter().map(|row| reject(&row)).collect();
        if verdicts.iter().all(Option::is_none) {
            return;
        }
        let mut verdicts = verdicts.into_iter();
        let faults = &mut self.faults;
        self.slots.retain(|slot| match verdicts.next().flatten() {
            None => true,
            Some((code, reason)) => {
                faults.push(Rejected { row: slot.id, code, reason });
                false
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: i64) -> RawRow<'static> {
        RawRow {
            id: RowId(id),
            topic: Cell::Bytes(b"t"),
            key: Cell::Null,
            payload: Cell::Null,
            payload_text: Cell::Null,
            headers: Cell::Null,
            message_id: Cell::Null,
            flags: Cell::Null,
            created_at_ms: 1,
        }
    }

    #[test]
    fn a_faulty_row_does_not_disturb_its_neighbours() {
        let mut buf = RowBuf::default();
        let instance = Instance([3; 16]);
        buf.push(instance, &RawRow { key: Cell::Integer(42), payload: Cell::Bytes(b""), ..raw(1) });
        buf.push(instance, &RawRow { payload: Cell::Bytes(b"x"), payload_text: Cell::Bytes(b"y"), ..raw(2) });
        buf.push(instance, &RawRow { key: Cell::Bytes(b"kk"), headers: Cell::Bytes(b"{"), ..raw(3) });
        buf.push(instance, &RawRow { topic: Cell::Bytes(b"no/t"), ..raw(4) });
        buf.push(instance, &RawRow { message_id: Cell::Bytes(b"7"), ..raw(5) });
        buf.push(instance, &RawRow { key: Cell::Other, ..raw(6) });
        buf.push(instance, &RawRow { payload_text: Cell::Bytes(b"last"), ..raw(7) });
        assert_eq!(buf.ends(), Some((RowId(1), RowId(7))));
        assert_eq!(buf.len(), 2);
        assert_eq!(buf.get(0).key, Some(&b"42"[..]));
        assert_eq!(buf.get(0).payload, Some(&b""[..]), "empty is not null");
        assert_eq!(buf.get(1).payload, Some(&b"last"[..]));
        assert_eq!(buf.get(1).key, None);
        let codes: Vec<_> = buf.faults().iter().map(|f| (f.row.0, f.code)).collect();
        assert_eq!(
            codes,
            [
                (2, RejectCode::Payload),
                (3, RejectCode::Headers),
                (4, RejectCode::TopicName),
                (5, RejectCode::MessageId),
                (6, RejectCode::Key),
            ]
        );
        assert_eq!(buf.retain_topics(|topic| topic.as_str() == "t"), 0);
        buf.reject_where(|row| (row.id == RowId(1)).then(|| (RejectCode::TooLarge, "big".into())));
        assert_eq!(buf.get(0).id, RowId(7));
        assert_eq!(buf.faults().len(), 6);
    }

    #[test]
    fn rows_of_a_held_topic_are_left_out_without_a_fault() {
        let mut buf = RowBuf::default();
        for (id, topic) in [(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "b")] {
            buf.push(Instance([3; 16]), &RawRow { topic: Cell::Bytes(topic.as_bytes()), ..raw(id) });
        }
        assert_eq!(buf.retain_topics(|topic| topic.as_str() != "a"), 2);
        let left: Vec<_> = buf.iter().map(|row| (row.id.0, buf.topics()[row.topic].as_str())).collect();
        assert_eq!(left, [(2, "b"), (4, "c"), (5, "b")]);
        assert_eq!((buf.ends(), buf.faults().len()), (Some((RowId(1), RowId(5))), 0));
        assert_eq!(buf.retain_topics(|_| false), 3);
        assert!(buf.is_empty() && buf.topics().is_empty());
    }
}
