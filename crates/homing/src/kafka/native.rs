//! librdkafka's consumer handle and queues, owned and driven through its C interface.
//!
//! The safe crate's consumer hands out one message a call (0.4 M/s); the C
//! batch call reaches 2.8 M/s. Everything unsafe about it stays in this file,
//! `native_call.rs`, `partition_list.rs` and `record.rs`.
//!
//! Three queues: the *consumer queue* carries group events and errors, the
//! *data queue* receives every assigned partition's records (so that not
//! reading it is back-pressure, without the purge that pausing costs), the
//! *reply queue* receives answers to commits. librdkafka rings the [`Bell`]
//! when one of the first two stops being empty.
//!
//! `rd_kafka_yield` is never called: in a batch read it would drop the record
//! at hand (librdkafka 2.12.1, `rd_kafka_q_serve_rkmessages`).
#![allow(unsafe_code)]

use super::bell::Bell;
use super::partition_list::{Entry, PartitionList};
pub(crate) use rdkafka::ClientConfig;
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What librdkafka answered when it could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {reason}")]
pub struct NativeError {
    /// What was tried, e.g. `commit`.
    pub operation: &'static str,
    /// librdkafka's error code (negative: raised by the client itself).
    pub code: i32,
    /// librdkafka's words.
    pub reason: String,
    /// The client cannot go on and has to be opened anew.
    pub fatal: bool,
}

impl NativeError {
    /// An error from a bare code.
    pub(crate) fn of(operation: &'static str, code: i32) -> Self {
        Self { operation, code, reason: describe(code), fatal: code == Code::RD_KAFKA_RESP_ERR__FATAL as i32 }
    }

    /// Whether the brokers are too old for what was asked.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.code == Code::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE as i32
    }

    /// Whether the log does not hold the offset to read from. Every position is explicit here, so
    /// librdkafka asking for its reset policy means just that.
    pub(crate) fn is_out_of_range(&self) -> bool {
        self.code == Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32
    }

    /// Whether the log was cut below what was read (KIP-320).
    pub(crate) fn is_truncation(&self) -> bool {
        self.code == Code::RD_KAFKA_RESP_ERR__LOG_TRUNCATION as i32
    }
}

/// The broker's word that a commit's metadata is longer than it allows.
pub(crate) const METADATA_TOO_LARGE: i32 = Code::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE as i32;

/// The error that says most: a refused login says more than that all brokers are down because of it.
pub(crate) fn most_telling(errors: Vec<NativeError>) -> Option<NativeError> {
    const TELLING: &[Code] = &[
        Code::RD_KAFKA_RESP_ERR__AUTHENTICATION,
        Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
        Code::RD_KAFKA_RESP_ERR__SSL,
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    ];
    let rank = |error: &NativeError| {
        let telling = TELLING.iter().any(|code| *code as i32 == error.code);
        (telling, error.code != Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as i32)
    };
    errors.into_iter().max_by_key(rank)
}

/// librdkafka's words for an error code.
pub(crate) fn describe(code: i32) -> String {
    match Code::try_from(code) {
        // SAFETY: returns a static string for every code.
        Ok(known) => unsafe { text(ffi::rd_kafka_err2str(known)) },
        Err(_) => format!("error {code}"),
    }
}

/// What the group coordinator asks of this member.
#[derive(Debug, Clone)]
pub(crate) enum GroupEvent {
    /// These partitions are ours from now on.
    Assign(Vec<Entry>),
    /// These are to be given up; `lost` when the group has taken them already.
    Revoke { entries: Vec<Entry>, lost: bool },
}

/// What the callbacks hand over; they run on the thread that serves the consumer queue,
/// the log callback on librdkafka's own.
#[derive(Default)]
struct Context {
    /// Guards the events between callback and [`Client::serve`].
    events: Mutex<Vec<GroupEvent>>,
    /// Guards the errors likewise.
    errors: Mutex<Vec<NativeError>>,
    /// Set by [`Client::close`]: a revocation is answered at once, in the callback.
    closing: AtomicBool,
    /// The group has its one answer while closing.
    declined: AtomicBool,
    /// The group waits for an answer to the last event.
    unanswered: AtomicBool,
}

/// A queue handle of librdkafka.
pub(crate) struct Queue(NonNull<ffi::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are locked inside and may be used from any thread.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// # Safety
    /// `raw` is a live queue whose ownership passes to the result, or null.
    pub(super) unsafe fn adopt(raw: *mut ffi::rd_kafka_queue_t) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::rd_kafka_queue_t {
        self.0.as_ptr()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this.
        unsafe { ffi::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// An open consumer. Records keep it alive; the last one to go closes it.
pub(crate) struct Client {
    raw: NonNull<ffi::rd_kafka_t>,
    /// `Some` until dropped, which must happen before `rd_kafka_destroy`.
    queues: Option<Queues>,
    /// Read by callbacks until `rd_kafka_destroy` returns.
    context: Box<Context>,
    /// Rung by callbacks until `rd_kafka_destroy` returns.
    bell: Option<Arc<Bell>>,
}

struct Queues {
    consumer: Queue,
    data: Queue,
    replies: Queue,
}

// SAFETY: rd_kafka_t is thread-safe by its documentation; `context` is locked.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// Opens a consumer with these settings; nothing is read before a subscription or assignment.
    pub fn open(settings: &ClientConfig, bell: Option<Arc<Bell>>) -> Result<Arc<Self>, NativeError> {
        let context = Box::<Context>::default();
        let conf = new_conf(settings, &context)?;
        let mut errstr = [0 as c_char; 512];
        // SAFETY: `conf` is live and, on success, owned by the new handle; `context` is boxed
        // and outlives the handle, as `Client` drops it after `rd_kafka_destroy`.
        let raw = unsafe {
            let raw = ffi::rd_kafka_new(
                ffi::rd_kafka_type_t::RD_KAFKA_CONSUMER,
                conf,
                errstr.as_mut_ptr(),
                errstr.len(),
            );
            let Some(raw) = NonNull::new(raw) else {
                ffi::rd_kafka_conf_destroy(conf);
                return Err(config_error(text(errstr.as_ptr())));
            };
            ffi::rd_kafka_poll_set_consumer(raw.as_ptr());
            raw
        };
        // SAFETY: `raw` is live; the getters return new references or null.
        let queues = unsafe {
            Queue::adopt(ffi::rd_kafka_queue_get_consumer(raw.as_ptr())).and_then(|consumer| {
                Some(Queues {
                    consumer,
                    data: Queue::adopt(ffi::rd_kafka_queue_new(raw.as_ptr()))?,
                    replies: Queue::adopt(ffi::rd_kafka_queue_new(raw.as_ptr()))?,
                })
            })
        };
        let client = Self { raw, queues, context, bell };
        client.connect_bell();
        Ok(Arc::new(client))
    }

    fn connect_bell(&self) {
        let Some(bell) = &self.bell else { return };
        let opaque = Arc::as_ptr(bell).cast_mut().cast::<c_void>();
        for queue in [self.consumer_queue(), self.data_queue()] {
            // SAFETY: the bell outlives the handle (`Client` holds it until after destroy), and
            // the callback only rings it.
            unsafe { ffi::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(on_queue_filled), opaque) }
        }
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::rd_kafka_t {
        self.raw.as_ptr()
    }

    fn queues(&self) -> &Queues {
        self.queues.as_ref().expect("a consumer has its queues until it is dropped")
    }

    pub(super) fn consumer_queue(&self) -> &Queue {
        &self.queues().consumer
    }

    pub(super) fn data_queue(&self) -> &Queue {
        &self.queues().data
    }

    pub(super) fn replies_queue(&self) -> &Queue {
        &self.queues().replies
    }

    /// Takes the group events and errors that callbacks left.
    pub fn take_events(&self) -> (Vec<GroupEvent>, Vec<NativeError>) {
        let events = std::mem::take(&mut *self.context.events.lock().unwrap_or_else(PoisonError::into_inner));
        let errors = std::mem::take(&mut *self.context.errors.lock().unwrap_or_else(PoisonError::into_inner));
        (events, errors)
    }

    /// The group has its answer to the last event.
    pub(super) fn answered(&self) {
        self.context.unanswered.store(false, Ordering::Release);
    }

    /// Leaves the group; gives up waiting for it at `until`. Says whether it was left in time.
    pub fn close(&self, until: Instant) -> bool {
        // Never answered, it would be waited for without end, and by `rd_kafka_destroy` after that.
        if self.context.unanswered.load(Ordering::Acquire)
            && let Err(error) = self.give_back_all()
        {
            tracing::warn!(%error, "answering the group before leaving it");
        }
        self.context.closing.store(true, Ordering::Release);
        // SAFETY: handle and queue are live. The close events need a queue of their own (forwarded
        // to itself the consumer queue would never be served again); serving it runs the rebalance
        // callback, which answers at once while `closing` is set.
        unsafe {
            let Some(queue) = Queue::adopt(ffi::rd_kafka_queue_new(self.raw.as_ptr())) else { return false };
            let error = ffi::rd_kafka_consumer_close_queue(self.raw.as_ptr(), queue.as_ptr());
            if !error.is_null() {
                ffi::rd_kafka_error_destroy(error);
                return ffi::rd_kafka_consumer_closed(self.raw.as_ptr()) != 0;
            }
            while ffi::rd_kafka_consumer_closed(self.raw.as_ptr()) == 0 {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                ffi::rd_kafka_queue_poll_callback(
                    queue.as_ptr(),
                    millis(left.min(Duration::from_millis(20))),
                );
            }
            true
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the handle is live; queues go first, as they refer to it. Leaving the group is
        // `close`'s business; without it the flag keeps destroy from waiting for handlers.
        unsafe {
            for queue in [self.consumer_queue(), self.data_queue()] {
                ffi::rd_kafka_queue_cb_event_enable(queue.as_ptr(), None, std::ptr::null_mut());
            }
            self.queues = None;
            ffi::rd_kafka_destroy_flags(self.raw.as_ptr(), ffi::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        }
    }
}

/// A configuration object with the settings and callbacks in it.
fn new_conf(settings: &ClientConfig, context: &Context) -> Result<*mut ffi::rd_kafka_conf_t, NativeError> {
    let conf = filled_conf(settings)?;
    // SAFETY: the object is live; the context outlives the client made of it.
    unsafe {
        let opaque = std::ptr::from_ref(context).cast_mut().cast::<c_void>();
        ffi::rd_kafka_conf_set_opaque(conf, opaque);
        ffi::rd_kafka_conf_set_rebalance_cb(conf, Some(on_rebalance));
        ffi::rd_kafka_conf_set_error_cb(conf, Some(on_error));
        ffi::rd_kafka_conf_set_log_cb(conf, Some(on_log));
        Ok(conf)
    }
}

/// A configuration object with the settings in it; whoever gets it destroys it or makes a client of it.
pub(super) fn filled_conf(settings: &ClientConfig) -> Result<*mut ffi::rd_kafka_conf_t, NativeError> {
    // SAFETY: a fresh object, destroyed here on error; strings live through each call.
    unsafe {
        let conf = ffi::rd_kafka_conf_new();
        for key in settings.config_map().keys() {
            // Not the map's value: the crate puts other words in the place of secrets there.
            let value = settings.get(key).expect("the key comes from the same map");
            if let Err(error) = set(conf, key, value) {
                ffi::rd_kafka_conf_destroy(conf);
                return Err(error);
            }
        }
        Ok(conf)
    }
}

/// # Safety
/// `conf` is live.
unsafe fn set(conf: *mut ffi::rd_kafka_conf_t, key: &str, value: &str) -> Result<(), NativeError> {
    let (Ok(c_key), Ok(c_value)) = (CString::new(key), CString::new(value)) else {
        return Err(config_error(format!("{key} holds a zero byte")));
    };
    let mut errstr = [0 as c_char; 512];
    // SAFETY: all pointers live through the call.
    let result = unsafe {
        ffi::rd_kafka_conf_set(conf, c_key.as_ptr(), c_value.as_ptr(), errstr.as_mut_ptr(), errstr.len())
    };
    if result == ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
        Ok(())
    } else {
        // SAFETY: librdkafka wrote a zero-terminated text.
        let said = unsafe { text(errstr.as_ptr()) };
        Err(config_error(super::client_value::without_secret(key, value, said)))
    }
}

fn config_error(reason: String) -> NativeError {
    let code = Code::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
    NativeError { operation: "configure the client", code, reason, fatal: false }
}

/// # Safety
/// `raw` is null or zero-terminated.
pub(super) unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
}

/// A wait as librdkafka takes it; rounds a wait below a millisecond up.
pub(super) fn millis(wait: Duration) -> c_int {
    if wait.is_zero() { 0 } else { c_int::try_from(wait.as_millis().max(1)).unwrap_or(c_int::MAX) }
}

unsafe extern "C" fn on_queue_filled(_rk: *mut ffi::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `opaque` is the bell given in `connect_bell`, alive until the handle is gone.
    unsafe { &*opaque.cast::<Bell>() }.ring();
}

/// # Safety
/// `opaque` is the context given in `new_conf`.
unsafe fn context_of<'a>(opaque: *mut c_void) -> &'a Context {
    // SAFETY: the context outlives the handle that calls back.
    unsafe { &*opaque.cast::<Context>() }
}

unsafe extern "C" fn on_rebalance(
    rk: *mut ffi::rd_kafka_t,
    code: ffi::rd_kafka_resp_err_t,
    partitions: *mut ffi::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: called by librdkafka with a live list, on the thread that serves the queue.
    unsafe {
        let context = context_of(opaque);
        let assign = code == Code::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if context.closing.load(Ordering::Acquire) {
            // Takes nothing any more and gives back at once. While a group terminates this answers
            // whatever it asked, by every protocol (2.12.1, `rd_kafka_cgrp_handle_assign_op`), but only
            // once: it then ends, and a call that comes after that may never return.
            if !context.declined.swap(true, Ordering::AcqRel) {
                ffi::rd_kafka_assign(rk, std::ptr::null());
            }
            return;
        }
        context.unanswered.store(true, Ordering::Release);
        let entries = PartitionList::entries_of(partitions);
        let event = if assign {
            GroupEvent::Assign(entries)
        } else {
            GroupEvent::Revoke { entries, lost: ffi::rd_kafka_assignment_lost(rk) != 0 }
        };
        context.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

unsafe extern "C" fn on_error(
    rk: *mut ffi::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: called by librdkafka with a zero-terminated reason; `rk` is live.
    unsafe {
        let reason = without_thread(&text(reason)).to_owned();
        let mut error = NativeError { reason, ..NativeError::of("talk to Kafka", code) };
        if error.fatal {
            let mut errstr = [0 as c_char; 512];
            let cause = ffi::rd_kafka_fatal_error(rk, errstr.as_mut_ptr(), errstr.len());
            error = NativeError { code: cause as i32, reason: text(errstr.as_ptr()), ..error };
        }
        context_of(opaque).errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }
}

/// librdkafka's words without the name of its thread, which says nothing to people:
/// `[thrd:host:9092/bootstrap]: host:9092/bootstrap: Connect to …`.
fn without_thread(words: &str) -> &str {
    let rest = words.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: "));
    rest.map_or(words, |(_, rest)| rest)
}

pub(super) unsafe extern "C" fn on_log(
    _rk: *const ffi::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    // SAFETY: called by librdkafka with zero-terminated strings.
    let (facility, line) = unsafe { (text(facility), text(line)) };
    let line = without_thread(&line);
    // Its errors are connection trouble that it goes on to mend: a warning in our terms. That a
    // setting which Homing chose knowingly is "experimental" is nothing to warn a user of.
    let is_our_choice = facility == "CONFWARN" && line.contains("enable.gapless.guarantee");
    match level {
        _ if is_our_choice => tracing::debug!(target: "homing::librdkafka", facility, "{line}"),
        0..=4 => tracing::warn!(target: "homing::librdkafka", facility, "{line}"),
        5 | 6 => tracing::info!(target: "homing::librdkafka", facility, "{line}"),
        _ => tracing::debug!(target: "homing::librdkafka", facility, "{line}"),
    }
}
