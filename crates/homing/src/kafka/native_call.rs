//! The calls on an open consumer: read, serve, assign, commit, ask.
#![allow(unsafe_code)]

use super::native::{Client, NativeError, Queue, millis, text};
use super::native_watermarks;
use super::partition_list::{Entry, PartitionList, TopicPartition};
use super::record::Record;
use homing_core::{Offset, TopicName};
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::ffi::{CString, c_char};
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
    }

    /// Gives the whole assignment up.
    pub fn unassign(&self) -> Result<(), NativeError> {
        // SAFETY: the handle is live; null means none.
        check("unassign partitions", unsafe { ffi::rd_kafka_assign(self.as_ptr(), std::ptr::null()) })
    }

    pub fn incremental_assign(&self, entries: &[Entry]) -> Result<(), NativeError> {
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
    }

    /// Whether the partitions are gone already, taken by the group without asking.
    pub fn assignment_lost(&self) -> bool {
        // SAFETY: the handle is live.
        unsafe { ffi::rd_kafka_assignment_lost(self.as_ptr()) != 0 }
    }

    /// The group's committed offsets with their metadata.
    pub fn committed(&self, entries: &[Entry], wait: Duration) -> Result<Vec<Entry>, NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live; the list is filled in place.
        check("fetch committed offsets", unsafe {
            ffi::rd_kafka_committed(self.as_ptr(), list.as_ptr(), millis(wait))
        })?;
        let entries = list.entries();
        match entries.iter().find(|entry| entry.error != 0) {
            Some(entry) => Err(NativeError::of("fetch committed offsets", entry.error)),
            None => Ok(entries),
        }
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

    /// Reads on from these offsets; what was prefetched is dropped.
    pub fn seek(&self, entries: &[Entry], wait: Duration) -> Result<(), NativeError> {
        let list = PartitionList::new(entries);
        // SAFETY: handle and list are live.
        check_error("seek", unsafe {
            ffi::rd_kafka_seek_partitions(self.as_ptr(), list.as_ptr(), millis(wait))
        })?;
        match list.entries().iter().find(|entry| entry.error != 0) {
            Some(entry) => Err(NativeError::of("seek", entry.error)),
            None => Ok(()),
        }
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

    /// The ids of these topics, in the given order; `None` where there is no such topic.
    pub fn topic_ids(
        &self,
        topics: &[TopicName],
        wait: Duration,
    ) -> Result<Vec<Option<TopicId>>, NativeError> {
        let names: Vec<CString> = topics.iter().map(c_name).collect();
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: every object made here is destroyed here; names outlive the collection, which
        // copies them; the event lends the result until it is destroyed.
        unsafe {
            let queue = Queue::adopt(ffi::rd_kafka_queue_new(self.as_ptr()))
                .ok_or_else(|| NativeError::of("describe topics", Code::RD_KAFKA_RESP_ERR__FAIL as i32))?;
            let operation = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = ffi::rd_kafka_AdminOptions_new(self.as_ptr(), operation);
            let mut errstr = [0 as c_char; 128];
            ffi::rd_kafka_AdminOptions_set_request_timeout(
                options,
                millis(wait),
                errstr.as_mut_ptr(),
                errstr.len(),
            );
            let collection =
                ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            ffi::rd_kafka_DescribeTopics(self.as_ptr(), collection, options, queue.as_ptr());
            ffi::rd_kafka_TopicCollection_destroy(collection);
            ffi::rd_kafka_AdminOptions_destroy(options);
            let event = ffi::rd_kafka_queue_poll(queue.as_ptr(), millis(wait + Duration::from_millis(100)));
            if event.is_null() {
                let code = Code::RD_KAFKA_RESP_ERR__TIMED_OUT as i32;
                return Err(NativeError::of("describe topics", code));
            }
            let ids = described_ids(event, topics);
            ffi::rd_kafka_event_destroy(event);
            ids
        }
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

/// # Safety
/// `event` is a live event.
unsafe fn described_ids(
    event: *mut ffi::rd_kafka_event_t,
    topics: &[TopicName],
) -> Result<Vec<Option<TopicId>>, NativeError> {
    // SAFETY: what the event lends lives until the caller destroys it.
    unsafe {
        let code = ffi::rd_kafka_event_error(event) as i32;
        if code != 0 {
            let reason = text(ffi::rd_kafka_event_error_string(event));
            return Err(NativeError { reason, ..NativeError::of("describe topics", code) });
        }
        let result = ffi::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(NativeError::of("describe topics", Code::RD_KAFKA_RESP_ERR__FAIL as i32));
        }
        let mut count = 0usize;
        let raw = ffi::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut ids = vec![None; topics.len()];
        for i in 0..count {
            let description = *raw.add(i);
            let code = ffi::rd_kafka_error_code(ffi::rd_kafka_TopicDescription_error(description)) as i32;
            let name = text(ffi::rd_kafka_TopicDescription_name(description));
            let uuid = ffi::rd_kafka_TopicDescription_topic_id(description);
            let place = topics.iter().position(|topic| topic.as_str() == name);
            let (Some(place), 0, false) = (place, code, uuid.is_null()) else { continue };
            let mut id = [0; 16];
            id[..8].copy_from_slice(&ffi::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
            id[8..].copy_from_slice(&ffi::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
            ids[place] = Some(id);
        }
        Ok(ids)
    }
}

fn c_name(topic: &TopicName) -> CString {
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
