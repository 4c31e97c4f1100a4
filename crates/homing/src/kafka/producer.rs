//! librdkafka's producer with the floor locked: send by handle, read delivery reports in place.
//!
//! The safe crate's producer looks the topic up by name for each record and
//! hands out each report through a callback; here a record goes out through a
//! topic handle made once, and reports are read straight from the event queue on
//! the caller's thread. `enable.gapless.guarantee` stays on but for isolation:
//! a permanent error stops the producer before a later record can overtake the
//! refused one; the relay then makes a new producer and goes on in order.
//!
//! Dropping a producer purges what it holds (P09): whoever drops it has taken
//! the reports of what counts, and sends the rest again.
#![allow(unsafe_code)]

use super::config::{ConfigError, KafkaConfig};
use super::native::{self, NativeError, Queue};
use homing_core::{Offset, TopicName};
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How a producer groups records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grouping {
    /// The most bytes one request's records of a partition may have together.
    pub bytes_max: usize,
    /// One record per request and one request in flight: each error is one record's own.
    pub isolated: bool,
    /// The most records librdkafka may hold.
    pub records_max: usize,
}

/// One record to send; all is copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub topic: TopicHandle,
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    /// Comes back with the delivery report.
    pub tag: usize,
}

/// A topic within one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicHandle(usize);

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Acknowledged at this offset.
    At(Offset),
    /// Acknowledged, but the client does not know where (a lost response).
    Somewhere,
    /// An error code; whether the record is in the log is the code's meaning.
    Failed(i32),
}

/// What a poll brought besides delivery reports.
#[derive(Debug, Default)]
pub(crate) struct Polled {
    /// Delivery reports handed out.
    pub reports: usize,
    /// Errors of the client itself: connections, authentication.
    pub errors: Vec<NativeError>,
}

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client holds as much as it may; poll and try again.
    Full,
    /// An error code of this record or of the client.
    Code(i32),
}

/// Wakes a thread that waits in [`Producer::poll`].
#[derive(Clone)]
pub(crate) struct Waker(Arc<Queue>);

impl Waker {
    pub fn wake(&self) {
        // SAFETY: the queue is live as long as this handle; yielding may be done from any thread.
        unsafe { ffi::rd_kafka_queue_yield(self.0.as_ptr()) }
    }
}

/// A producer and its topic handles.
pub(crate) struct Producer {
    raw: NonNull<ffi::rd_kafka_t>,
    queue: Option<Arc<Queue>>,
    topics: Vec<NonNull<ffi::rd_kafka_topic_t>>,
    /// Milliseconds by which a quota delays requests at present; written by a callback until the
    /// client is destroyed.
    throttle_ms: Box<AtomicU32>,
}

// SAFETY: rd_kafka_t is thread-safe by its documentation; topic handles are only used with it.
unsafe impl Send for Producer {}

impl Producer {
    /// Opens a producer; it connects on its own.
    pub fn open(config: &KafkaConfig, grouping: Grouping) -> Result<Self, ProducerError> {
        let settings = settings(config, grouping)?;
        let mut errstr = [0 as c_char; 512];
        let throttle_ms = Box::<AtomicU32>::default();
        // SAFETY: a fresh configuration, destroyed here on error and owned by the handle on success;
        // the opaque is boxed and outlives the handle, as fields go after `drop`.
        unsafe {
            let conf = native::filled_conf(&settings)?;
            ffi::rd_kafka_conf_set_log_cb(conf, Some(native::on_log));
            ffi::rd_kafka_conf_set_opaque(conf, std::ptr::from_ref(&*throttle_ms).cast_mut().cast());
            ffi::rd_kafka_conf_set_throttle_cb(conf, Some(on_throttle));
            let events = ffi::RD_KAFKA_EVENT_DR | ffi::RD_KAFKA_EVENT_ERROR;
            ffi::rd_kafka_conf_set_events(conf, events);
            let kind = ffi::rd_kafka_type_t::RD_KAFKA_PRODUCER;
            let raw = ffi::rd_kafka_new(kind, conf, errstr.as_mut_ptr(), errstr.len());
            let Some(raw) = NonNull::new(raw) else {
                ffi::rd_kafka_conf_destroy(conf);
                let code = Code::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
                let reason = native::text(errstr.as_ptr());
                return Err(NativeError { reason, ..NativeError::of("open a producer", code) }.into());
            };
            let queue = Queue::adopt(ffi::rd_kafka_queue_get_main(raw.as_ptr())).map(Arc::new);
            Ok(Self { raw, queue, topics: Vec::new(), throttle_ms })
        }
    }

    fn queue(&self) -> &Arc<Queue> {
        self.queue.as_ref().expect("a producer has its queue until it is dropped")
    }

    /// What wakes a thread that waits in [`poll`](Self::poll).
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(self.queue()))
    }

    /// Makes a handle for `topic`.
    pub fn topic(&mut self, topic: &TopicName) -> Result<TopicHandle, NativeError> {
        let name = CString::new(topic.as_str()).expect("a topic name holds no zero byte");
        // SAFETY: the handle is live; librdkafka copies the name; a null configuration means the default.
        let raw = unsafe { ffi::rd_kafka_topic_new(self.raw.as_ptr(), name.as_ptr(), std::ptr::null_mut()) };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: no arguments.
            let code = unsafe { ffi::rd_kafka_last_error() } as i32;
            return Err(NativeError::of("make a topic handle", code));
        };
        self.topics.push(raw);
        Ok(TopicHandle(self.topics.len() - 1))
    }

    /// Hands a record with `headers` to librdkafka, which copies it all.
    pub fn send<'h>(
        &self,
        record: Outgoing<'_>,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), Refusal> {
        let (payload, payload_len) = raw_bytes(record.payload);
        let (key, key_len) = raw_bytes(record.key);
        // SAFETY: topic and client handles are live; all bytes live through the call and are copied
        // (MSG_F_COPY; keys and headers always are); the headers pass to librdkafka on success only.
        let code = unsafe {
            let list = ffi::rd_kafka_headers_new(4);
            for (name, value) in headers {
                let (value, value_len) = raw_bytes(value);
                ffi::rd_kafka_header_add(
                    list,
                    name.as_ptr().cast(),
                    name.len().cast_signed(),
                    value,
                    value_len.cast_signed(),
                );
            }
            let code = ffi::rd_kafka_producev(
                self.raw.as_ptr(),
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                self.topics[record.topic.0].as_ptr(),
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                record.partition,
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                ffi::RD_KAFKA_MSG_F_COPY,
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                payload,
                payload_len,
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                record.tag as *mut c_void,
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                list,
                ffi::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            ) as i32;
            if code != 0 {
                ffi::rd_kafka_headers_destroy(list);
            }
            code
        };
        match code {
            0 => Ok(()),
            code if code == Code::RD_KAFKA_RESP_ERR__QUEUE_FULL as i32 => Err(Refusal::Full),
            code => Err(Refusal::Code(code)),
        }
    }

    /// Waits up to `wait` for events and hands out all there are.
    pub fn poll(&self, wait: Duration, mut take: impl FnMut(usize, Report)) -> Polled {
        let mut polled = Polled::default();
        let mut wait = native::millis(wait);
        loop {
            // SAFETY: the queue is live; an event is destroyed before the next is asked for.
            unsafe {
                let event = ffi::rd_kafka_queue_poll(self.queue().as_ptr(), wait);
                if event.is_null() {
                    return polled;
                }
                match ffi::rd_kafka_event_type(event) {
                    ffi::RD_KAFKA_EVENT_DR => loop {
                        let message = ffi::rd_kafka_event_message_next(event);
                        if message.is_null() {
                            break;
                        }
                        polled.reports += 1;
                        take((*message)._private as usize, report(message));
                    },
                    ffi::RD_KAFKA_EVENT_ERROR => {
                        let code = ffi::rd_kafka_event_error(event) as i32;
                        let reason = native::text(ffi::rd_kafka_event_error_string(event));
                        let fatal = ffi::rd_kafka_event_error_is_fatal(event) != 0;
                        polled.errors.push(NativeError { operation: "talk to Kafka", code, reason, fatal });
                    }
                    _ => {}
                }
                ffi::rd_kafka_event_destroy(event);
            }
            wait = 0;
        }
    }

    /// By how much a quota of the cluster delays requests at present; zero when none does.
    pub fn throttled(&self) -> Duration {
        Duration::from_millis(self.throttle_ms.load(Ordering::Relaxed).into())
    }

    /// The error that ended this producer for good, if one did.
    pub fn fatal_error(&self) -> Option<NativeError> {
        let mut errstr = [0 as c_char; 512];
        // SAFETY: the handle is live and the buffer is as long as said.
        unsafe {
            let code = ffi::rd_kafka_fatal_error(self.raw.as_ptr(), errstr.as_mut_ptr(), errstr.len()) as i32;
            (code != 0).then(|| NativeError {
                operation: "produce",
                code,
                reason: native::text(errstr.as_ptr()),
                fatal: true,
            })
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // SAFETY: all handles are live and not used after this. Purged records are reported to the
        // queue, which goes with the client; topic and queue handles go first, as they refer to it.
        unsafe {
            let flags = ffi::RD_KAFKA_PURGE_F_QUEUE | ffi::RD_KAFKA_PURGE_F_INFLIGHT;
            ffi::rd_kafka_purge(self.raw.as_ptr(), flags);
            self.poll(Duration::ZERO, |_, _| {});
            for topic in self.topics.drain(..) {
                ffi::rd_kafka_topic_destroy(topic.as_ptr());
            }
            self.queue = None;
            ffi::rd_kafka_destroy(self.raw.as_ptr());
        }
    }
}

unsafe extern "C" fn on_throttle(
    _rk: *mut ffi::rd_kafka_t,
    _broker_name: *const c_char,
    _broker_id: i32,
    throttle_ms: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the number given in `open`, alive until the handle is gone.
    let now = unsafe { &*opaque.cast::<AtomicU32>() };
    now.store(u32::try_from(throttle_ms).unwrap_or(0), Ordering::Relaxed);
}

/// # Safety
/// `message` is a live delivery report.
unsafe fn report(message: *const ffi::rd_kafka_message_t) -> Report {
    // SAFETY: the caller's promise. The code is read as a number: it comes from the network.
    let (code, offset) =
        unsafe { (std::ptr::addr_of!((*message).err).cast::<i32>().read(), (*message).offset) };
    match (code, offset) {
        (0, 0..) => Report::At(Offset(offset)),
        (0, _) => Report::Somewhere,
        (code, _) => Report::Failed(code),
    }
}

fn raw_bytes(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((std::ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// Why a producer could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProducerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Native(#[from] NativeError),
}

fn settings(config: &KafkaConfig, grouping: Grouping) -> Result<rdkafka::ClientConfig, ConfigError> {
    let mut settings = config.producer_config()?;
    let unset =
        |settings: &rdkafka::ClientConfig, keys: &[&str]| keys.iter().all(|key| settings.get(key).is_none());
    // Default 5: a lone message would wait that long for company.
    if unset(&settings, &["linger.ms", "queue.buffering.max.ms"]) {
        settings.set("linger.ms", "1");
    }
    // The topic's own limit is checked before numbering; the client's would only get in the way.
    if unset(&settings, &["message.max.bytes"]) {
        settings.set("message.max.bytes", "1000000000");
    }
    if unset(&settings, &["reconnect.backoff.max.ms"]) {
        settings.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
    }
    settings.remove("queue.buffering.max.messages");
    settings.set("queue.buffering.max.messages", grouping.records_max.to_string());
    let chosen = settings.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(1_000_000);
    settings.set("batch.size", grouping.bytes_max.min(chosen).max(1).to_string());
    if grouping.isolated {
        settings.remove("max.in.flight");
        settings.set("max.in.flight.requests.per.connection", "1").set("batch.num.messages", "1");
        settings.set("enable.gapless.guarantee", "false");
        // A topic that was refused stays so in the client until its metadata is read again.
        if unset(&settings, &["topic.metadata.refresh.interval.ms"]) {
            settings.set("topic.metadata.refresh.interval.ms", "1000");
        }
    } else {
        settings.set("enable.gapless.guarantee", "true");
    }
    Ok(settings)
}
