//! Asking what topics there are, through an open consumer.
#![allow(unsafe_code)]

use super::native::{Client, NativeError, Queue, millis, text};
use super::native_call::{TopicId, c_name};
use super::native_watermarks;
use homing_core::TopicName;
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::ffi::{CString, c_char};
use std::time::Duration;

const DESCRIBE: &str = "describe topics";

/// What a cluster says of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Described {
    /// It is there.
    Here {
        /// `None` from a broker without topic ids.
        id: Option<TopicId>,
        partitions: i32,
    },
    /// There is no such topic.
    Missing,
    /// It cannot be said now, for this reason (an error code).
    Unclear(i32),
}

impl Client {
    /// The ids of these topics, in the given order; `None` where there is no such topic.
    pub fn topic_ids(
        &self,
        topics: &[TopicName],
        wait: Duration,
    ) -> Result<Vec<Option<TopicId>>, NativeError> {
        let id_of = |described| match described {
            Described::Here { id, .. } => id,
            Described::Missing | Described::Unclear(_) => None,
        };
        Ok(self.describe_topics(topics, wait)?.into_iter().map(id_of).collect())
    }

    /// What the cluster says of these topics, in the given order.
    ///
    /// The question goes to the broker that was last called the controller, which may be gone for
    /// good. So one that is not answered has the client ask any broker about the cluster.
    pub fn describe_topics(
        &self,
        topics: &[TopicName],
        wait: Duration,
    ) -> Result<Vec<Described>, NativeError> {
        let described = self.ask_for_topics(topics, wait);
        if let (Err(_), Some(topic)) = (&described, topics.first()) {
            // SAFETY: the handle is live as long as this is.
            unsafe { native_watermarks::refresh(self.as_ptr(), &c_name(topic), wait) };
        }
        described
    }

    fn ask_for_topics(&self, topics: &[TopicName], wait: Duration) -> Result<Vec<Described>, NativeError> {
        let failed = |code: Code| NativeError::of(DESCRIBE, code as i32);
        let names: Vec<CString> = topics.iter().map(c_name).collect();
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the handle is live; every object made here is destroyed here, after the last use of
        // what it lends; the names outlive the collection, which copies them.
        unsafe {
            let queue = Queue::adopt(ffi::rd_kafka_queue_new(self.as_ptr()))
                .ok_or_else(|| failed(Code::RD_KAFKA_RESP_ERR__FAIL))?;
            let options = ffi::rd_kafka_AdminOptions_new(
                self.as_ptr(),
                ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            );
            let mut errstr = [0 as c_char; 128];
            let (out, len) = (errstr.as_mut_ptr(), errstr.len());
            ffi::rd_kafka_AdminOptions_set_request_timeout(options, millis(wait), out, len);
            let collection =
                ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            ffi::rd_kafka_DescribeTopics(self.as_ptr(), collection, options, queue.as_ptr());
            ffi::rd_kafka_TopicCollection_destroy(collection);
            ffi::rd_kafka_AdminOptions_destroy(options);
            let event = ffi::rd_kafka_queue_poll(queue.as_ptr(), millis(wait + Duration::from_millis(100)));
            if event.is_null() {
                return Err(failed(Code::RD_KAFKA_RESP_ERR__TIMED_OUT));
            }
            let code = ffi::rd_kafka_event_error(event) as i32;
            let described = match code {
                0 => described_topics(event, topics).ok_or_else(|| failed(Code::RD_KAFKA_RESP_ERR__FAIL)),
                _ => {
                    let reason = text(ffi::rd_kafka_event_error_string(event));
                    Err(NativeError { reason, ..NativeError::of(DESCRIBE, code) })
                }
            };
            ffi::rd_kafka_event_destroy(event);
            described
        }
    }
}

/// # Safety
/// `event` is live and answers a DescribeTopics.
unsafe fn described_topics(
    event: *mut ffi::rd_kafka_event_t,
    topics: &[TopicName],
) -> Option<Vec<Described>> {
    // SAFETY: what the event lends lives as long as it.
    unsafe {
        let result = ffi::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return None;
        }
        let mut count = 0usize;
        let raw = ffi::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut described = vec![Described::Missing; topics.len()];
        for i in 0..count {
            let description = *raw.add(i);
            let code = ffi::rd_kafka_error_code(ffi::rd_kafka_TopicDescription_error(description)) as i32;
            let name = text(ffi::rd_kafka_TopicDescription_name(description));
            let place = topics.iter().position(|topic| topic.as_str() == name);
            let Some(place) = place else { continue };
            if code != 0 {
                let missing = code == Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;
                described[place] = if missing { Described::Missing } else { Described::Unclear(code) };
                continue;
            }
            let mut partitions = 0usize;
            ffi::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
            let uuid = ffi::rd_kafka_TopicDescription_topic_id(description);
            let id = (!uuid.is_null()).then(|| {
                let mut id = TopicId::default();
                id[..8].copy_from_slice(&ffi::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
                id[8..].copy_from_slice(&ffi::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
                id
            });
            // A broker without topic ids says zero, which would fit any topic.
            let id = id.filter(|id| *id != TopicId::default());
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            described[place] = Described::Here { id, partitions };
        }
        Some(described)
    }
}
