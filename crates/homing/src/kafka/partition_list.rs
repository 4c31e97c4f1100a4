//! librdkafka's list of topic partitions, owned and read safely.
#![allow(unsafe_code)]

use homing_core::{Offset, Partition, TopicName};
use rdkafka::bindings as ffi;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition in it.
    pub partition: Partition,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// What an entry of the list says.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub at: TopicPartition,
    /// The raw offset: a position, or one of librdkafka's negative marks.
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: Vec<u8>,
    /// librdkafka's error code for this partition; 0 is none.
    pub error: i32,
}

impl Entry {
    /// An entry that only names a partition.
    pub fn of(at: TopicPartition) -> Self {
        Self {
            at,
            offset: i64::from(ffi::RD_KAFKA_OFFSET_INVALID),
            leader_epoch: None,
            metadata: Vec::new(),
            error: 0,
        }
    }

    /// The offset when it is a real one.
    pub fn real_offset(&self) -> Option<Offset> {
        (self.offset >= 0).then_some(Offset(self.offset))
    }
}

/// An owned `rd_kafka_topic_partition_list_t`.
///
/// Dropped before the client it came from: a live list from
/// `rd_kafka_committed` can block `rd_kafka_destroy`.
pub(crate) struct PartitionList(NonNull<ffi::rd_kafka_topic_partition_list_t>);

impl PartitionList {
    /// Builds a list of `entries`.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        // SAFETY: allocates an empty list; librdkafka aborts rather than return null.
        let raw = unsafe { ffi::rd_kafka_topic_partition_list_new(8) };
        let list = Self(NonNull::new(raw).expect("librdkafka returns a list or aborts"));
        for entry in entries {
            list.add(entry);
        }
        list
    }

    fn add(&self, entry: &Entry) {
        let topic = CString::new(entry.at.topic.as_str()).expect("a topic name holds no zero byte");
        // SAFETY: the list is ours and live; `topic` is copied by the call; the returned
        // element lives inside the list and is only written here, before the next add.
        unsafe {
            let element =
                ffi::rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), entry.at.partition.0);
            (*element).offset = entry.offset;
            if let Some(epoch) = entry.leader_epoch {
                ffi::rd_kafka_topic_partition_set_leader_epoch(element, epoch);
            }
            if !entry.metadata.is_empty() {
                let size = entry.metadata.len();
                // Freed by the list's destructor, so it must come from librdkafka's allocator.
                let copy = ffi::rd_kafka_mem_malloc(std::ptr::null_mut(), size);
                std::ptr::copy_nonoverlapping(entry.metadata.as_ptr(), copy.cast::<u8>(), size);
                (*element).metadata = copy;
                (*element).metadata_size = size;
            }
        }
    }

    /// Copies a list that librdkafka owns.
    ///
    /// # Safety
    /// `raw` is null or points to a live list.
    pub unsafe fn entries_of(raw: *const ffi::rd_kafka_topic_partition_list_t) -> Vec<Entry> {
        if raw.is_null() {
            return Vec::new();
        }
        // SAFETY: the caller's promise; `elems` holds `cnt` elements and each names a
        // zero-terminated topic; metadata is null or `metadata_size` bytes long.
        unsafe {
            let count = usize::try_from((*raw).cnt).unwrap_or(0);
            (0..count)
                .filter_map(|i| {
                    let element = (*raw).elems.add(i);
                    let topic = CStr::from_ptr((*element).topic).to_str().ok()?;
                    let epoch = ffi::rd_kafka_topic_partition_get_leader_epoch(element);
                    let metadata = if (*element).metadata.is_null() {
                        Vec::new()
                    } else {
                        std::slice::from_raw_parts((*element).metadata.cast::<u8>(), (*element).metadata_size)
                            .to_vec()
                    };
                    Some(Entry {
                        at: TopicPartition {
                            topic: TopicName::parse(topic).ok()?,
                            partition: Partition((*element).partition),
                        },
                        offset: (*element).offset,
                        leader_epoch: (epoch >= 0).then_some(epoch),
                        metadata,
                        error: std::ptr::addr_of!((*element).err).cast::<i32>().read(),
                    })
                })
                .collect()
        }
    }

    /// The entries, copied.
    pub fn entries(&self) -> Vec<Entry> {
        // SAFETY: the list is ours and live.
        unsafe { Self::entries_of(self.0.as_ptr()) }
    }

    pub fn as_ptr(&self) -> *mut ffi::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this.
        unsafe { ffi::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_put_in() {
        let at = TopicPartition { topic: TopicName::parse("orders").unwrap(), partition: Partition(3) };
        let entry =
            Entry { offset: 42, leader_epoch: Some(7), metadata: b"abc".to_vec(), ..Entry::of(at.clone()) };
        let list = PartitionList::new([&entry, &Entry::of(TopicPartition { partition: Partition(4), ..at })]);
        let back = list.entries();
        assert_eq!(back.len(), 2);
        assert_eq!(
            (back[0].offset, back[0].leader_epoch, back[0].metadata.as_slice()),
            (42, Some(7), &b"abc"[..])
        );
        assert_eq!(back[1].real_offset(), None);
        assert_eq!(back[1].leader_epoch, None);
    }
}
