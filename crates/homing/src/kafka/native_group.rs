//! Asking who in the group holds what, through an open consumer.
//!
//! By `rd_kafka_list_groups`, which asks every broker, and not by the admin requests that go to a
//! group's coordinator: one of those that ran out of time while the coordinator was away uses memory
//! that is free already, and so ends the process, once the coordinator is back (librdkafka 2.12.1,
//! `rd_kafka_admin_coord_request` and `rd_kafka_coord_req_fail` both drop the request's last reference).
#![allow(unsafe_code)]

use super::assignment;
use super::native::{Client, NativeError, millis, text};
use super::partition_list::TopicPartition;
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::ffi::CString;
use std::ptr;
use std::time::Duration;

impl Client {
    /// What the group's members hold; `None` while the group is sharing out or cannot be found.
    pub fn held_in_group(
        &self,
        group: &str,
        wait: Duration,
    ) -> Result<Option<Vec<TopicPartition>>, NativeError> {
        let name = CString::new(group).expect("a client is not opened with a zero byte in its group's name");
        let mut list: *const ffi::rd_kafka_group_list = ptr::null();
        // SAFETY: the handle is live and the name outlives the call; a list that comes back is ours
        // until destroyed, and what it lends is copied before that.
        unsafe {
            let code =
                ffi::rd_kafka_list_groups(self.as_ptr(), name.as_ptr(), &raw mut list, millis(wait)) as i32;
            if list.is_null() {
                return Err(NativeError::of("describe the group", code));
            }
            // A list beside an error: not every broker has answered, but the coordinator may have.
            let groups = elements((*list).groups, (*list).group_cnt);
            let held = groups.iter().find_map(|described| held(described));
            ffi::rd_kafka_group_list_destroy(list);
            match held {
                None if code != 0 => Err(NativeError::of("describe the group", code)),
                held => Ok(held),
            }
        }
    }
}

/// What a group's members hold, if it is at rest.
///
/// # Safety
/// `group` and what it points to are live.
unsafe fn held(group: &ffi::rd_kafka_group_info) -> Option<Vec<TopicPartition>> {
    // SAFETY: the strings are null or end with a zero byte; each array is as long as its count says.
    unsafe {
        if group.err as i32 != Code::RD_KAFKA_RESP_ERR_NO_ERROR as i32 || text(group.state) != "Stable" {
            return None;
        }
        let mut held = Vec::new();
        for member in elements(group.members, group.member_cnt) {
            let bytes = elements(member.member_assignment.cast::<u8>(), member.member_assignment_size);
            held.extend(assignment::partitions(bytes)?);
        }
        Some(held)
    }
}

/// # Safety
/// `first` is null or the first of `count` live elements.
unsafe fn elements<'a, T>(first: *const T, count: i32) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: as the caller promises.
        Ok(count) if !first.is_null() => unsafe { std::slice::from_raw_parts(first, count) },
        _ => &[],
    }
}
