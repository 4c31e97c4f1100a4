//! A record as librdkafka read it: borrowed from its buffer, freed when dropped.
#![allow(unsafe_code)]

use super::native::{Client, NativeError};
use super::native_call::ReadError;
use super::partition_list::TopicPartition;
use homing_core::{Flags, Offset, Partition, PayloadCrc, Stamp, StampRef, TopicName};
use rdkafka::bindings as ffi;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// A record read from Kafka.
///
/// Key, payload and headers are borrowed from the client's receive buffer:
/// nothing is copied, and a record kept for long keeps its whole fetch buffer.
pub struct Record {
    message: NonNull<ffi::rd_kafka_message_t>,
    /// Parsed when the record was taken over, so that reading needs no lock; null without headers.
    headers: *mut ffi::rd_kafka_headers_t,
    /// What the stamp header says; borrows from `headers`, hence private and lent with `&self`.
    stamp: OnceLock<Option<StampRef<'static>>>,
    /// Keeps the client open. `None` only inside the consumer, which keeps it by other means
    /// for as long as it lends the record.
    client: Option<Arc<Client>>,
}

// SAFETY: the message belongs to this record alone, its reference counts are atomic, and it may be
// destroyed on any thread. All access through `&self` is read-only: headers were parsed before.
unsafe impl Send for Record {}
// SAFETY: as above.
unsafe impl Sync for Record {}

impl Record {
    /// Takes a message over; an error message becomes the error it carries.
    ///
    /// # Safety
    /// `raw` is a live message that nothing else owns.
    pub(super) unsafe fn adopt(raw: NonNull<ffi::rd_kafka_message_t>) -> Result<Self, ReadError> {
        // SAFETY: the caller's promise. The code is read as a number: it comes from the network.
        unsafe {
            let message = raw.as_ptr();
            let code = std::ptr::addr_of!((*message).err).cast::<i32>().read();
            if code != 0 {
                let error = read_error(message, code);
                ffi::rd_kafka_message_destroy(message);
                return Err(error);
            }
            let mut headers = std::ptr::null_mut();
            if ffi::rd_kafka_message_headers(message, &raw mut headers) as i32 != 0 {
                headers = std::ptr::null_mut();
            }
            Ok(Self { message: raw, headers, stamp: OnceLock::new(), client: None })
        }
    }

    /// Makes the record keep its client open by itself.
    pub(crate) fn keep(&mut self, client: &Arc<Client>) {
        self.client.get_or_insert_with(|| Arc::clone(client));
    }

    fn message(&self) -> &ffi::rd_kafka_message_t {
        // SAFETY: live until dropped.
        unsafe { self.message.as_ref() }
    }

    /// The topic it was read from.
    #[must_use]
    pub fn topic(&self) -> &str {
        // SAFETY: a record read from a partition has its topic, which lives as long as the record.
        let name = unsafe { CStr::from_ptr(ffi::rd_kafka_topic_name(self.message().rkt)) };
        name.to_str().unwrap_or_default()
    }

    /// Tells topics apart without reading the name; only good while this record lives.
    pub(crate) fn topic_address(&self) -> usize {
        self.message().rkt as usize
    }

    /// The partition it was read from.
    #[must_use]
    pub fn partition(&self) -> Partition {
        Partition(self.message().partition)
    }

    /// Its offset there.
    #[must_use]
    pub fn offset(&self) -> Offset {
        Offset(self.message().offset)
    }

    /// When it was created, or appended if the topic says so, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = ffi::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live.
        let at = unsafe { ffi::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        (at >= 0 && kind != ffi::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE).then_some(at)
    }

    /// The epoch of the leader that wrote it, when the broker says so.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message is live.
        let epoch = unsafe { ffi::rd_kafka_message_leader_epoch(self.message.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    /// The key; `None` is Kafka's null.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: librdkafka's key is null or `key_len` bytes, live as long as the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    /// The payload; `None` is a tombstone.
    #[must_use]
    pub fn payload(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: as for the key.
        unsafe { bytes(message.payload, message.len) }
    }

    /// How many bytes key and payload hold.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.message().key_len + self.message().len
    }

    /// The headers in order, Homing's own among them; `None` is a null value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> + '_ {
        (0..).map_while(|index| self.header_at(index))
    }

    fn header_at(&self, index: usize) -> Option<(&str, Option<&[u8]>)> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0usize);
        // SAFETY: the headers live as long as the message; the call lends name and value.
        unsafe {
            let code = ffi::rd_kafka_header_get_all(
                self.headers,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            );
            if code as i32 != 0 {
                return None;
            }
            // Kafka's names are UTF-8; another client's broken one becomes an empty name.
            Some((CStr::from_ptr(name).to_str().unwrap_or_default(), bytes(value.cast_mut(), size)))
        }
    }

    /// The last header of this name.
    #[must_use]
    pub fn header(&self, name: &CStr) -> Option<&[u8]> {
        if self.headers.is_null() {
            return None;
        }
        let (mut value, mut size): (*const c_void, usize) = (std::ptr::null(), 0);
        let name: *const c_char = name.as_ptr();
        // SAFETY: as in `header_at`.
        unsafe {
            let code = ffi::rd_kafka_header_get_last(self.headers, name, &raw mut value, &raw mut size);
            if code as i32 == 0 { bytes(value.cast_mut(), size) } else { None }
        }
    }

    /// The stamp, without copying; parsed once. `None` when there is none or it does not parse.
    #[must_use]
    pub fn stamp_ref(&self) -> Option<StampRef<'_>> {
        *self.stamp.get_or_init(|| {
            let value = self.header(STAMP)?;
            // SAFETY: the header's bytes live as long as `self`; the longer lifetime never leaves
            // this struct, as the accessor lends the stamp with the lifetime of `&self`.
            let value: &'static [u8] = unsafe { &*std::ptr::from_ref(value) };
            StampRef::decode(value).ok()
        })
    }

    /// The stamp: stream, epoch, partition, seq and checksum.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp_ref().map(StampRef::to_stamp)
    }

    /// Whether there is a stamp header at all, well-formed or not.
    #[must_use]
    pub fn has_stamp_header(&self) -> bool {
        self.header(STAMP).is_some()
    }

    /// Whether key and payload are those the stamp was made for. `None` without a stamp.
    #[must_use]
    pub fn matches_stamp(&self) -> Option<bool> {
        self.stamp_ref().map(|stamp| PayloadCrc::of(self.key(), self.payload()) == stamp.crc)
    }

    /// The message's identity.
    #[must_use]
    pub fn id(&self) -> Option<Uuid> {
        let value = self.header(ID)?;
        std::str::from_utf8(value).ok().and_then(|text| Uuid::try_parse(text).ok())
    }

    /// Whether it was sent again by the auditor, or redriven from a dead letter.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.header(FLAGS).map_or_else(Flags::default, Flags::decode)
    }
}

const STAMP: &CStr = c"homing-stamp";
const ID: &CStr = c"homing-id";
const FLAGS: &CStr = c"homing-flags";

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: ours alone and not used after this; the client, if kept, is dropped after it.
        unsafe { ffi::rd_kafka_message_destroy(self.message.as_ptr()) }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic(), self.partition(), self.offset())
    }
}

/// # Safety
/// `start` is null or `size` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *mut c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>().cast_const(), size) })
}

/// # Safety
/// `message` is live and carries an error.
unsafe fn read_error(message: *mut ffi::rd_kafka_message_t, code: i32) -> ReadError {
    // SAFETY: the caller's promise; for an error the payload is its text, if there is one.
    unsafe {
        let topic = (*message).rkt;
        let name = if topic.is_null() {
            None
        } else {
            CStr::from_ptr(ffi::rd_kafka_topic_name(topic)).to_str().ok()
        };
        let at = name
            .and_then(|name| TopicName::parse(name).ok())
            .map(|topic| TopicPartition { topic, partition: Partition((*message).partition) });
        let mut error = NativeError::of("read", code);
        if let Some(reason) = bytes((*message).payload, (*message).len) {
            error.reason = String::from_utf8_lossy(reason).into_owned();
        }
        ReadError { at, offset: (*message).offset, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use homing_core::header;

    #[test]
    fn header_names_are_those_of_the_wire_format() {
        assert_eq!(STAMP.to_str().unwrap(), header::STAMP);
        assert_eq!(ID.to_str().unwrap(), header::ID);
        assert_eq!(FLAGS.to_str().unwrap(), header::FLAGS);
    }
}
