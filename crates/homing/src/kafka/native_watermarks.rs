//! Asking for the ends of a partition, past what librdkafka remembers of its topic.
//!
//! A broker may name a topic that was just made before it knows the topic's partitions. librdkafka
//! keeps such an answer, and while it is young (`metadata.max.age.ms`, 15 minutes) says at once that
//! the partition is unknown (2.12.1, `rd_kafka_topic_partition_list_get_leaders`). So that word of
//! its own is not believed before the broker was asked again.
#![allow(unsafe_code)]

use super::native::{self, NativeError};
use homing_core::{Offset, Partition, TopicName};
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// The offset of the partition's first record and the one after its last.
///
/// # Safety
/// `client` is a live handle, and stays so through the call.
pub(super) unsafe fn watermarks(
    client: *mut ffi::rd_kafka_t,
    (topic, partition): (&TopicName, Partition),
    wait: Duration,
) -> Result<(Offset, Offset), NativeError> {
    const UNKNOWN: i32 = Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION as i32;
    let name = CString::new(topic.as_str()).expect("a topic name holds no zero byte");
    let deadline = Instant::now() + wait;
    // SAFETY: the caller's promise.
    let mut answer = unsafe { query(client, &name, partition, wait) };
    if answer == Err(UNKNOWN) {
        let left = deadline.saturating_duration_since(Instant::now());
        // SAFETY: the caller's promise.
        unsafe {
            refresh(client, &name, left);
            answer = query(client, &name, partition, deadline.saturating_duration_since(Instant::now()));
        }
    }
    answer.map_err(|code| {
        let reason = format!("{topic}[{partition}]: {}", native::describe(code));
        NativeError { reason, ..NativeError::of("ask for watermarks", code) }
    })
}

unsafe fn query(
    client: *mut ffi::rd_kafka_t,
    topic: &CStr,
    partition: Partition,
    wait: Duration,
) -> Result<(Offset, Offset), i32> {
    let (mut low, mut high) = (0i64, 0i64);
    // SAFETY: the handle is live; name and numbers live through the call.
    let code = unsafe {
        let (low, high) = (&raw mut low, &raw mut high);
        let wait = native::millis(wait);
        ffi::rd_kafka_query_watermark_offsets(client, topic.as_ptr(), partition.0, low, high, wait)
    } as i32;
    if code == 0 { Ok((Offset(low), Offset(high))) } else { Err(code) }
}

/// Has the client ask a broker about the topic, whatever it remembers. (Asking about all the topics
/// it remembers would allow brokers to create them: librdkafka 2.12.1, `rd_kafka_metadata`.)
///
/// # Safety
/// `client` is a live handle, and stays so through the call.
pub(super) unsafe fn refresh(client: *mut ffi::rd_kafka_t, topic: &CStr, wait: Duration) {
    // SAFETY: the handle is live; topic and answer are destroyed once each, when there are any.
    unsafe {
        let handle = ffi::rd_kafka_topic_new(client, topic.as_ptr(), std::ptr::null_mut());
        if handle.is_null() {
            return;
        }
        let mut answer: *const ffi::rd_kafka_metadata = std::ptr::null();
        // Whether it worked shows in the next query.
        let _ = ffi::rd_kafka_metadata(client, 0, handle, &raw mut answer, native::millis(wait));
        if !answer.is_null() {
            ffi::rd_kafka_metadata_destroy(answer);
        }
        ffi::rd_kafka_topic_destroy(handle);
    }
}
