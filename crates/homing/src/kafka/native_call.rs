//! The calls on an open consumer: read, serve, assign, commit, ask.
#![allow(unsafe_code)]

use super::native::{Client, NativeError, Queue, millis, text};
use super::native_watermarks;
use super::partition_list::{Entry, PartitionList, TopicPartition};
use super::record::Record;
use homing_core::{Offset, TopicName};
use rdkafka::bindings as ffi;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// A topic's id as the cluster gave it at creation; a recreated topic has another.
pub type TopicId = [u8; 16];

/// Takes what a queue yields: records, or errors about a partition or the whole client.
#[derive(Debug, Clone)]
pub(crate) struct ReadError {
    /// The partition concerned, if one is.
    pub at: Option<TopicPartition>,
    /// The offset concerned, or a negative mark.
    pub offset: i64,
    pub error: NativeError,
}

/// Reused between reads, so that reading allocates nothing.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    raw: Vec<*mut ffi::rd_kafka_message_t>,
}

// SAFETY: between calls the buffer is empty; the pointers never outlive a read.
unsafe impl Send for ReadBuffer {}

/// The answer to one commit.
#[derive(Debug)]
pub(crate) struct CommitReply {
    pub result: Result<(), NativeError>,
    /// Each partition with its own error code.
    pub entries: Vec<Entry>,
}

impl Client {
    /// Moves up to `max` messages from `queue` into `records`, waiting up to `wait` **for all of
    /// them**; errors go to `errors`. Returns how many messages there were.
    pub fn read(
        &self,
        from: Source,
        buffer: &mut ReadBuffer,
        (max, wait): (usize, Duration),
        records: &mut Vec<Record>,
        errors: &mut Vec<ReadError>,
    ) -> usize {
        let queue = match from {
            Source::Data => self.data_queue(),
            Source::Consumer => self.consumer_queue(),
        };
        buffer.raw.clear();
        buffer.raw.reserve(max);
        // SAFETY: the queue is live and the buffer has room for `max` pointers; the call writes
        // that many at most and returns how many. Each becomes owned by the record made of it.
        let count = unsafe {
            let count =
                ffi::rd_kafka_consume_batch_queue(queue.as_ptr(), millis(wait), buffer.raw.as_mut_ptr(), max);
            let count = usize::try_from(count).unwrap_or(0);
            buffer.raw.set_len(count);
            count
        };
        records.reserve(count);
        for raw in buffer.raw.drain(..) {
            let Some(raw) = NonNull::new(raw) else { continue };
            // SAFETY: `raw` is a live message that nothing else owns.
            match unsafe { Record::adopt(raw) } {
                Ok(record) => records.push(record),
                Err(error) => errors.push(error),
            }
        }
        count
    }

    /// Runs the callbacks that wait in the consumer queue; a record found there goes to `records`.
    pub fn serve(&self, records: &mut Vec<Record>, errors: &mut Vec<ReadError>) {
        loop {
            // SAFETY: the handle is live; a returned message is ours.
            let raw = unsafe { ffi::rd_kafka_consumer_poll(self.as_ptr(), 0) };
            let Some(raw) = NonNull::new(raw) else { return };
            // SAFETY: as above.
            match unsafe { Record::adopt(raw) } {
                Ok(record) => records.push(record),
                Err(error) => errors.push(error),
            }
        }
    }

    pub fn subscribe(&self, topics: &[TopicName]) -> Result<(), NativeError> {
        let any = |topic: &TopicName| {
            Entry::of(TopicPartition { topic: topic.clone(), partition: homing_core::Partition(-1) })
        };
        let entries: Vec<_> = topics.iter().map(any).collect();
        let list = PartitionList::new(&entries);
        // SAFETY: handle and list are live; the list is copied.
        check("subscribe", unsafe { ffi::rd_kafka_subscribe(self.as_ptr(), list.as_ptr()) })
    }

    /// Leaves the group; what is held is revoked.
    pub fn unsubscribe(&self) -> Result<(), NativeError> {
        // SAFETY: the handle is live.
        check("unsubscribe", unsafe { ffi::rd_kafka_unsubscribe(self.as_ptr()) })
    }

    /// Whether the group hands out partitions one by one (cooperative) instead of all anew.
    pub fn is_cooperative(&self) -> bool {
        // SAFETY: the handle is live; the call returns a static string or null.
        unsafe { text(ffi::rd_kafka_rebalance_protocol(self.as_ptr())) == "COOPERATIVE" }
    }

    /// Routes the partition's records to the data queue. Before the assignment that starts them.
    pub fn route_to_data(&self, at: &TopicPartition) {
        let topic = c_name(&at.topic);
        // SAFETY: handle and name are live; the partition queue reference is dropped after use.
        unsafe {
            let raw = ffi::rd_kafka_queue_get_partition(self.as_ptr(), topic.as_ptr(), at.partition.0);
            if let Some(queue) = Queue::adopt(raw) {
                ffi::rd_kafka_queue_forward(queue.as_ptr(), self.data_queue().as_ptr());
            }
        }
    }

    /// Replaces the whole assignment.
    pub fn assign(&self, entries: &[Entry]) -> Result<(), NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live; the list is copied.
        check("assign partitions", unsafe { ffi::rd_kafka_assign(self.as_ptr(), list.as_ptr()) })
            .map(|()| self.answered())
    }

    /// Gives the whole assignment up.
    pub fn unassign(&self) -> Result<(), NativeError> {
        // SAFETY: the handle is live; null means none.
        check("unassign partitions", unsafe { ffi::rd_kafka_assign(self.as_ptr(), std::ptr::null()) })
            .map(|()| self.answered())
    }

    pub fn incremental_assign(&self, entries: &[Entry]) -> Result<(), NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live; the list is copied.
        check_error("assign partitions", unsafe {
            ffi::rd_kafka_incremental_assign(self.as_ptr(), list.as_ptr())
        })
        .map(|()| self.answered())
    }

    /// Takes more partitions on, which is no answer to what the group asked.
    pub fn add_to_assignment(&self, entries: &[Entry]) -> Result<(), NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live; the list is copied.
        check_error("assign partitions", unsafe {
            ffi::rd_kafka_incremental_assign(self.as_ptr(), list.as_ptr())
        })
    }

    pub fn incremental_unassign(&self, entries: &[Entry]) -> Result<(), NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: as above.
        check_error("unassign partitions", unsafe {
            ffi::rd_kafka_incremental_unassign(self.as_ptr(), list.as_ptr())
        })
        .map(|()| self.answered())
    }

    /// Answers whatever the group asked last by giving everything back.
    pub(super) fn give_back_all(&self) -> Result<(), NativeError> {
        if !self.is_cooperative() {
            return self.unassign();
        }
        self.incremental_assign(&[])?;
        let assigned: Vec<Entry> = self.assignment()?.into_iter().map(Entry::of).collect();
        self.incremental_unassign(&assigned)
    }

    /// Whether the partitions are gone already, taken by the group without asking.
    pub fn assignment_lost(&self) -> bool {
        // SAFETY: the handle is live.
        unsafe { ffi::rd_kafka_assignment_lost(self.as_ptr()) != 0 }
    }

    /// The partitions that are assigned now.
    pub fn assignment(&self) -> Result<Vec<TopicPartition>, NativeError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the handle is live; the list that comes back is ours to destroy.
        unsafe {
            check("ask for the assignment", ffi::rd_kafka_assignment(self.as_ptr(), &raw mut raw))?;
            let entries = PartitionList::entries_of(raw);
            if !raw.is_null() {
                ffi::rd_kafka_topic_partition_list_destroy(raw);
            }
            Ok(entries.into_iter().map(|entry| entry.at).collect())
        }
    }

    /// The group's committed offsets with their metadata, each partition with its own error code.
    pub fn committed(&self, entries: &[Entry], wait: Duration) -> Result<Vec<Entry>, NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live; the list is filled in place.
        check("fetch committed offsets", unsafe {
            ffi::rd_kafka_committed(self.as_ptr(), list.as_ptr(), millis(wait))
        })?;
        Ok(list.entries())
    }

    /// Sends a commit; the answer comes out of [`commit_reply`](Self::commit_reply).
    pub fn commit(&self, entries: &[Entry]) -> Result<(), NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle, list and queue are live; the list is copied.
        check("commit", unsafe {
            ffi::rd_kafka_commit_queue(
                self.as_ptr(),
                list.as_ptr(),
                self.replies_queue().as_ptr(),
                None,
                std::ptr::null_mut(),
            )
        })
    }

    /// The next answer to a commit, waiting up to `wait`.
    pub fn commit_reply(&self, wait: Duration) -> Option<CommitReply> {
        // SAFETY: the queue is live; the event is ours until destroyed, and what it lends is
        // copied before that.
        unsafe {
            let event = ffi::rd_kafka_queue_poll(self.replies_queue().as_ptr(), millis(wait));
            if event.is_null() {
                return None;
            }
            let code = ffi::rd_kafka_event_error(event) as i32;
            let entries =
                PartitionList::entries_of(ffi::rd_kafka_event_topic_partition_list(event).cast_const());
            ffi::rd_kafka_event_destroy(event);
            let result = if code == 0 { Ok(()) } else { Err(NativeError::of("commit", code)) };
            Some(CommitReply { result, entries })
        }
    }

    pub fn pause(&self, at: &[TopicPartition]) -> Result<(), NativeError> {
        let entries: Vec<_> = at.iter().cloned().map(Entry::of).collect();
        let list = PartitionList::new(&entries);
        // SAFETY: handle and list are live.
        check("pause partitions", unsafe { ffi::rd_kafka_pause_partitions(self.as_ptr(), list.as_ptr()) })
    }

    pub fn resume(&self, at: &[TopicPartition]) -> Result<(), NativeError> {
        let entries: Vec<_> = at.iter().cloned().map(Entry::of).collect();
        let list = PartitionList::new(&entries);
        // SAFETY: handle and list are live.
        check("resume partitions", unsafe { ffi::rd_kafka_resume_partitions(self.as_ptr(), list.as_ptr()) })
    }

    /// Reads on from these offsets; what was prefetched is dropped. Without `wait` nobody hears
    /// whether it worked, but nothing read from then on is from before.
    pub fn seek(&self, entries: &[Entry], wait: Duration) -> Result<(), NativeError> {
        match self.seek_each(entries, wait)?.iter().find(|entry| entry.error != 0) {
            Some(entry) if !wait.is_zero() => Err(NativeError::of("seek", entry.error)),
            _ => Ok(()),
        }
    }

    /// As [`seek`](Self::seek), each partition with its own error code.
    pub fn seek_each(&self, entries: &[Entry], wait: Duration) -> Result<Vec<Entry>, NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live.
        check_error("seek", unsafe {
            ffi::rd_kafka_seek_partitions(self.as_ptr(), list.as_ptr(), millis(wait))
        })?;
        Ok(list.entries())
    }

    /// Where reading stands: one above the last record taken, control records included.
    pub fn positions(&self, at: &[TopicPartition]) -> Result<Vec<Entry>, NativeError> {
        let entries: Vec<_> = at.iter().cloned().map(Entry::of).collect();
        let list = PartitionList::new(&entries);
        // SAFETY: handle and list are live; the list is filled in place.
        check("ask for positions", unsafe { ffi::rd_kafka_position(self.as_ptr(), list.as_ptr()) })?;
        Ok(list.entries())
    }

    /// Asks the broker for the first offset of the partition and the one after its last.
    pub fn watermarks(&self, at: &TopicPartition, wait: Duration) -> Result<(Offset, Offset), NativeError> {
        // SAFETY: the handle is live as long as this is.
        unsafe { native_watermarks::watermarks(self.as_ptr(), (&at.topic, at.partition), wait) }
    }

    /// The cluster's id.
    pub fn cluster_id(&self, wait: Duration) -> Option<String> {
        // SAFETY: the handle is live; the string is ours to free.
        unsafe {
            let raw = ffi::rd_kafka_clusterid(self.as_ptr(), millis(wait));
            if raw.is_null() {
                return None;
            }
            let id = text(raw);
            ffi::rd_kafka_mem_free(self.as_ptr(), raw.cast());
            Some(id)
        }
    }
}

/// Which queue a read takes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// Records of the partitions routed there.
    Data,
    /// Everything of a client whose partitions are not routed elsewhere.
    Consumer,
}

pub(super) fn c_name(topic: &TopicName) -> CString {
    CString::new(topic.as_str()).expect("a topic name holds no zero byte")
}

fn check(operation: &'static str, code: ffi::rd_kafka_resp_err_t) -> Result<(), NativeError> {
    match code as i32 {
        0 => Ok(()),
        code => Err(NativeError::of(operation, code)),
    }
}

fn check_error(operation: &'static str, error: *mut ffi::rd_kafka_error_t) -> Result<(), NativeError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a live error that the caller owns; its text is copied before it is destroyed.
    unsafe {
        let code = ffi::rd_kafka_error_code(error) as i32;
        let reason = text(ffi::rd_kafka_error_string(error));
        let fatal = ffi::rd_kafka_error_is_fatal(error) != 0;
        ffi::rd_kafka_error_destroy(error);
        Err(NativeError { operation, code, reason, fatal })
    }
}

/// Keeps the handle alive as long as any of its records.
pub(crate) type SharedClient = Arc<Client>;
