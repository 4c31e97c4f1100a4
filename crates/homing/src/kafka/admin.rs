//! Asking Kafka what is there and creating what is missing: cluster id, topics, limits, ends.
#![allow(unsafe_code)]

use super::config::KafkaConfig;
use super::native::{self, NativeError, Queue};
use super::native_call::TopicId;
use super::partition_list::{Entry, PartitionList, TopicPartition};
use super::producer::ProducerError;
use homing_core::{Offset, TopicName};
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::ptr::NonNull;
use std::time::Duration;

/// What Kafka says about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TopicAnswer {
    /// It is there.
    Present(TopicFacts),
    /// There is no such topic.
    Missing,
    /// We may not look at it.
    NotAuthorised,
    /// Something else, to be asked again.
    Unclear(NativeError),
}

/// What is known of a topic that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicFacts {
    pub id: TopicId,
    pub partitions: i32,
    /// Each partition's replicas, in order.
    pub parts: Vec<PartitionFacts>,
}

/// What is known of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionFacts {
    pub led: bool,
    pub replicas: usize,
    pub in_sync: usize,
}

impl TopicFacts {
    /// Whether each partition has a leader.
    pub fn is_led(&self) -> bool {
        self.parts.iter().all(|part| part.led)
    }
}

/// What is known of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterFacts {
    pub id: String,
    pub nodes: usize,
}

/// Settings of a topic that matter to who writes; `None` for what Kafka does not tell us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicSettings {
    /// `max.message.bytes`.
    pub message_bytes_max: Option<usize>,
    /// `min.insync.replicas`.
    pub min_insync: Option<i32>,
    /// Whether `cleanup.policy` contains `compact`.
    pub compacted: Option<bool>,
}

/// Which end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Its first offset.
    Start,
    /// The offset after its last.
    End,
}

/// A client that asks and creates, and neither produces nor consumes.
pub(crate) struct Admin {
    raw: Cell<NonNull<ffi::rd_kafka_t>>,
    settings: rdkafka::ClientConfig,
    wait: Duration,
}

// SAFETY: rd_kafka_t is thread-safe by its documentation.
unsafe impl Send for Admin {}

type Op = ffi::rd_kafka_admin_op_t;

impl Admin {
    /// Opens the client; each question waits up to `wait` for its answer.
    pub fn open(config: &KafkaConfig, wait: Duration) -> Result<Self, ProducerError> {
        let mut settings = config.admin_config()?;
        if settings.get("reconnect.backoff.max.ms").is_none() {
            settings.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        }
        Ok(Self { raw: Cell::new(connect(&settings)?), settings, wait })
    }

    fn raw(&self) -> *mut ffi::rd_kafka_t {
        self.raw.get().as_ptr()
    }

    /// Begins again with the bootstrap addresses. librdkafka 2.12 asks the broker that it was
    /// once told is the controller, and goes on asking it after it is gone.
    fn reopen(&self) {
        match connect(&self.settings) {
            // SAFETY: the old handle is live, nobody else has it, and no queue of it is left.
            Ok(fresh) => unsafe { ffi::rd_kafka_destroy(self.raw.replace(fresh).as_ptr()) },
            Err(error) => tracing::debug!(%error, "the admin client was not opened anew"),
        }
    }

    /// The cluster as the broker says now, not as the client remembers it.
    pub fn cluster(&self) -> Result<ClusterFacts, NativeError> {
        let operation = "ask for the cluster id";
        // SAFETY: the event lends the result until it is destroyed, at the end of `ask`.
        self.ask(
            operation,
            Op::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER,
            |options, queue| unsafe { ffi::rd_kafka_DescribeCluster(self.raw(), options, queue) },
            |event| unsafe {
                let result = ffi::rd_kafka_event_DescribeCluster_result(event);
                if result.is_null() {
                    return Err(NativeError::of(operation, Code::RD_KAFKA_RESP_ERR__FAIL as i32));
                }
                let mut nodes = 0usize;
                ffi::rd_kafka_DescribeCluster_result_nodes(result, &raw mut nodes);
                let id = native::text(ffi::rd_kafka_DescribeCluster_result_cluster_id(result));
                Ok(ClusterFacts { id, nodes })
            },
        )
    }

    /// What Kafka says about each of `topics`, in their order.
    pub fn topics(&self, topics: &[&TopicName]) -> Result<Vec<TopicAnswer>, NativeError> {
        let operation = "describe topics";
        let names: Vec<CString> = topics.iter().map(|topic| c_name(topic)).collect();
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: names outlive the collection, which copies them; the event lends the result.
        self.ask(
            operation,
            Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            |options, queue| unsafe {
                let collection =
                    ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                ffi::rd_kafka_DescribeTopics(self.raw(), collection, options, queue);
                ffi::rd_kafka_TopicCollection_destroy(collection);
            },
            |event| unsafe {
                let result = ffi::rd_kafka_event_DescribeTopics_result(event);
                let mut count = 0usize;
                let raw = if result.is_null() {
                    std::ptr::null_mut()
                } else {
                    ffi::rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
                };
                let missing = NativeError::of(operation, Code::RD_KAFKA_RESP_ERR__FAIL as i32);
                let mut answers = vec![TopicAnswer::Unclear(missing); topics.len()];
                for i in 0..count {
                    let description = *raw.add(i);
                    let name = native::text(ffi::rd_kafka_TopicDescription_name(description));
                    if let Some(place) = topics.iter().position(|topic| topic.as_str() == name) {
                        answers[place] = answer(operation, description);
                    }
                }
                Ok(answers)
            },
        )
    }

    /// Creates a topic; one that is there already is fine.
    pub fn create_topic(&self, topic: &TopicName, config: &KafkaConfig) -> Result<(), NativeError> {
        let operation = "create a topic";
        let name = c_name(topic);
        let min_isr = CString::new(config.min_insync_replicas.to_string()).expect("digits hold no zero byte");
        let mut errstr = [0 as c_char; 512];
        // SAFETY: the new-topic object is destroyed after the call, which copies it.
        let new = unsafe {
            let (partitions, replicas) = (config.topic_partitions, config.replication_factor);
            let new = ffi::rd_kafka_NewTopic_new(
                name.as_ptr(),
                partitions,
                replicas,
                errstr.as_mut_ptr(),
                errstr.len(),
            );
            if new.is_null() {
                let code = Code::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
                let reason = native::text(errstr.as_ptr());
                return Err(NativeError { reason, ..NativeError::of(operation, code) });
            }
            ffi::rd_kafka_NewTopic_set_config(new, c"min.insync.replicas".as_ptr(), min_isr.as_ptr());
            new
        };
        // SAFETY: as above; the event lends the result.
        self.ask(
            operation,
            Op::RD_KAFKA_ADMIN_OP_CREATETOPICS,
            |options, queue| unsafe {
                let mut list = [new];
                ffi::rd_kafka_CreateTopics(self.raw(), list.as_mut_ptr(), 1, options, queue);
                ffi::rd_kafka_NewTopic_destroy(new);
            },
            |event| unsafe {
                let result = ffi::rd_kafka_event_CreateTopics_result(event);
                let mut count = 0usize;
                let results = ffi::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
                for i in 0..count {
                    let code = ffi::rd_kafka_topic_result_error(*results.add(i)) as i32;
                    if code != 0 && code != Code::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS as i32 {
                        let said = native::text(ffi::rd_kafka_topic_result_error_string(*results.add(i)));
                        let reason = format!("topic {topic}: {said}");
                        return Err(NativeError { reason, ..NativeError::of(operation, code) });
                    }
                }
                Ok(())
            },
        )
    }

    /// The topics' settings in their order, as far as Kafka tells us; one question for all.
    pub fn topic_settings(&self, topics: &[&TopicName]) -> Result<Vec<TopicSettings>, NativeError> {
        let operation = "ask for the topics' limits";
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<CString> = topics.iter().map(|topic| c_name(topic)).collect();
        // SAFETY: the resources are destroyed after the call, which copies them; the event lends the result.
        self.ask(
            operation,
            Op::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS,
            |options, queue| unsafe {
                let kind = ffi::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
                let mut list: Vec<_> =
                    names.iter().map(|name| ffi::rd_kafka_ConfigResource_new(kind, name.as_ptr())).collect();
                ffi::rd_kafka_DescribeConfigs(self.raw(), list.as_mut_ptr(), list.len(), options, queue);
                for resource in list {
                    ffi::rd_kafka_ConfigResource_destroy(resource);
                }
            },
            |event| unsafe {
                let result = ffi::rd_kafka_event_DescribeConfigs_result(event);
                let mut count = 0usize;
                let resources = ffi::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
                let mut settings = vec![TopicSettings::default(); topics.len()];
                for i in 0..count {
                    let name = native::text(ffi::rd_kafka_ConfigResource_name(*resources.add(i)));
                    if let Some(place) = topics.iter().position(|topic| topic.as_str() == name) {
                        settings[place] = settings_of(*resources.add(i));
                    }
                }
                Ok(settings)
            },
        )
    }

    /// One bound of each partition's log, in their order; one question for all. An error of one is its own.
    pub fn bounds(
        &self,
        at: &[TopicPartition],
        which: Bound,
    ) -> Result<Vec<Result<Offset, NativeError>>, NativeError> {
        let operation = "ask for the partitions' ends";
        let spec = match which {
            Bound::Start => -2, // RD_KAFKA_OFFSET_SPEC_EARLIEST
            Bound::End => -1,   // RD_KAFKA_OFFSET_SPEC_LATEST
        };
        if at.is_empty() {
            return Ok(Vec::new());
        }
        let entries: Vec<_> = at.iter().map(|at| Entry { offset: spec, ..Entry::of(at.clone()) }).collect();
        let list = PartitionList::new(&entries);
        // SAFETY: the list lives through the call, which copies it; the event lends the result.
        self.ask(
            operation,
            Op::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
            |options, queue| unsafe {
                ffi::rd_kafka_ListOffsets(self.raw(), list.as_ptr(), options.cast_mut(), queue);
            },
            |event| unsafe {
                let result = ffi::rd_kafka_event_ListOffsets_result(event);
                let mut count = 0usize;
                let infos = ffi::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
                let fail = |at: &TopicPartition, code: i32| {
                    let reason = format!("{at}: {}", native::describe(code));
                    Err(NativeError { reason, ..NativeError::of(operation, code) })
                };
                let silent = Code::RD_KAFKA_RESP_ERR__FAIL as i32;
                let mut answers: Vec<_> = at.iter().map(|at| fail(at, silent)).collect();
                let places: HashMap<(&str, i32), usize> =
                    at.iter().enumerate().map(|(n, at)| ((at.topic.as_str(), at.partition.0), n)).collect();
                for i in 0..count {
                    let info = ffi::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
                    let name = native::text((*info).topic);
                    if let Some(place) = places.get(&(name.as_str(), (*info).partition)) {
                        // The code is read as a number: it comes from the network.
                        let code = std::ptr::addr_of!((*info).err).cast::<i32>().read();
                        let known = code == 0 && (*info).offset >= 0;
                        let answer = if known { Ok(Offset((*info).offset)) } else { fail(&at[*place], code) };
                        answers[*place] = answer;
                    }
                }
                Ok(answers)
            },
        )
    }

    /// Asks one question and waits for its answer.
    fn ask<T>(
        &self,
        operation: &'static str,
        kind: Op,
        question: impl FnOnce(*const ffi::rd_kafka_AdminOptions_t, *mut ffi::rd_kafka_queue_t),
        answer: impl FnOnce(*mut ffi::rd_kafka_event_t) -> Result<T, NativeError>,
    ) -> Result<T, NativeError> {
        let answered = self.ask_once(operation, kind, question, answer);
        answered.map_err(|(error, silent)| {
            if silent {
                self.reopen();
            }
            error
        })
    }

    /// As [`ask`](Self::ask); with an error says whether nobody answered.
    fn ask_once<T>(
        &self,
        operation: &'static str,
        kind: Op,
        question: impl FnOnce(*const ffi::rd_kafka_AdminOptions_t, *mut ffi::rd_kafka_queue_t),
        answer: impl FnOnce(*mut ffi::rd_kafka_event_t) -> Result<T, NativeError>,
    ) -> Result<T, (NativeError, bool)> {
        // A queue of its own: the answer to an earlier question may still come, long after its time.
        // SAFETY: the handle is live; the new queue's ownership passes to the wrapper.
        let queue = unsafe { Queue::adopt(ffi::rd_kafka_queue_new(self.raw())) }
            .ok_or_else(|| (NativeError::of(operation, Code::RD_KAFKA_RESP_ERR__FAIL as i32), false))?;
        let queue = &queue;
        let mut errstr = [0 as c_char; 128];
        let wait = native::millis(self.wait);
        // SAFETY: options live through the question; the event is destroyed once, after the answer.
        unsafe {
            let options = ffi::rd_kafka_AdminOptions_new(self.raw(), kind);
            ffi::rd_kafka_AdminOptions_set_request_timeout(options, wait, errstr.as_mut_ptr(), errstr.len());
            if matches!(kind, Op::RD_KAFKA_ADMIN_OP_CREATETOPICS) {
                let (out, len) = (errstr.as_mut_ptr(), errstr.len());
                ffi::rd_kafka_AdminOptions_set_operation_timeout(options, wait, out, len);
            }
            question(options, queue.as_ptr());
            ffi::rd_kafka_AdminOptions_destroy(options);
            // The client's own time-out does not always come (2.12: no broker connected).
            let event = ffi::rd_kafka_queue_poll(queue.as_ptr(), wait);
            let cause = self.take_errors();
            if event.is_null() {
                let timed_out = NativeError::of(operation, Code::RD_KAFKA_RESP_ERR__TIMED_OUT as i32);
                return Err((cause.map_or(timed_out, |cause| NativeError { operation, ..cause }), true));
            }
            let code = ffi::rd_kafka_event_error(event) as i32;
            let result = if code == 0 {
                answer(event)
            } else if let (true, Some(cause)) = (is_silence(code), cause) {
                Err(NativeError { operation, ..cause })
            } else {
                let reason = native::text(ffi::rd_kafka_event_error_string(event));
                Err(NativeError { reason, ..NativeError::of(operation, code) })
            };
            ffi::rd_kafka_event_destroy(event);
            result.map_err(|error| (error, is_silence(code)))
        }
    }
}

impl Admin {
    /// The most telling of the errors since the last question: why a connection cannot be had.
    fn take_errors(&self) -> Option<NativeError> {
        let mut errors = Vec::new();
        // SAFETY: the handle is live; each event is destroyed before the next is asked for.
        unsafe {
            let main = Queue::adopt(ffi::rd_kafka_queue_get_main(self.raw()))?;
            loop {
                let event = ffi::rd_kafka_queue_poll(main.as_ptr(), 0);
                if event.is_null() {
                    return native::most_telling(errors);
                }
                let code = ffi::rd_kafka_event_error(event) as i32;
                if ffi::rd_kafka_event_type(event) == ffi::RD_KAFKA_EVENT_ERROR && code != 0 {
                    let reason = native::text(ffi::rd_kafka_event_error_string(event));
                    errors.push(NativeError { reason, ..NativeError::of("talk to Kafka", code) });
                }
                ffi::rd_kafka_event_destroy(event);
            }
        }
    }
}

fn connect(settings: &rdkafka::ClientConfig) -> Result<NonNull<ffi::rd_kafka_t>, NativeError> {
    let mut errstr = [0 as c_char; 512];
    // SAFETY: a fresh configuration, destroyed here on error and owned by the handle on success.
    unsafe {
        let conf = native::filled_conf(settings)?;
        ffi::rd_kafka_conf_set_log_cb(conf, Some(native::on_log));
        ffi::rd_kafka_conf_set_events(conf, ffi::RD_KAFKA_EVENT_ERROR);
        let kind = ffi::rd_kafka_type_t::RD_KAFKA_PRODUCER;
        let raw = ffi::rd_kafka_new(kind, conf, errstr.as_mut_ptr(), errstr.len());
        NonNull::new(raw).ok_or_else(|| {
            ffi::rd_kafka_conf_destroy(conf);
            let code = Code::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
            let reason = native::text(errstr.as_ptr());
            NativeError { reason, ..NativeError::of("open an admin client", code) }
        })
    }
}

/// Whether an error only says that nobody answered.
fn is_silence(code: i32) -> bool {
    [
        Code::RD_KAFKA_RESP_ERR__TIMED_OUT,
        Code::RD_KAFKA_RESP_ERR__TRANSPORT,
        Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
    ]
    .iter()
    .any(|silent| *silent as i32 == code)
}

impl Drop for Admin {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used after this.
        unsafe { ffi::rd_kafka_destroy(self.raw()) }
    }
}

/// # Safety
/// `description` is live.
unsafe fn answer(
    operation: &'static str,
    description: *const ffi::rd_kafka_TopicDescription_t,
) -> TopicAnswer {
    // SAFETY: the caller's promise; what the description lends lives as long as it.
    unsafe {
        let error = ffi::rd_kafka_TopicDescription_error(description);
        let code = ffi::rd_kafka_error_code(error) as i32;
        if code == Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32 {
            return TopicAnswer::Missing;
        }
        if code == Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32 {
            return TopicAnswer::NotAuthorised;
        }
        let mut count = 0usize;
        let partitions = ffi::rd_kafka_TopicDescription_partitions(description, &raw mut count);
        let uuid = ffi::rd_kafka_TopicDescription_topic_id(description);
        if code != 0 || count == 0 || uuid.is_null() {
            let code = if code == 0 { Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as i32 } else { code };
            return TopicAnswer::Unclear(NativeError::of(operation, code));
        }
        let mut id = [0; 16];
        id[..8].copy_from_slice(&ffi::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
        id[8..].copy_from_slice(&ffi::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
        let part = |i: usize| {
            let (partition, mut replicas, mut in_sync) = (*partitions.add(i), 0usize, 0usize);
            ffi::rd_kafka_TopicPartitionInfo_replicas(partition, &raw mut replicas);
            ffi::rd_kafka_TopicPartitionInfo_isr(partition, &raw mut in_sync);
            let led = !ffi::rd_kafka_TopicPartitionInfo_leader(partition).is_null();
            PartitionFacts { led, replicas, in_sync }
        };
        let parts = (0..count).map(part).collect();
        TopicAnswer::Present(TopicFacts { id, partitions: i32::try_from(count).unwrap_or(i32::MAX), parts })
    }
}

/// # Safety
/// `resource` is live.
unsafe fn settings_of(resource: *const ffi::rd_kafka_ConfigResource_t) -> TopicSettings {
    let mut settings = TopicSettings::default();
    let mut entries = 0usize;
    // SAFETY: the caller's promise; entries live as long as the resource.
    unsafe {
        let list = ffi::rd_kafka_ConfigResource_configs(resource, &raw mut entries);
        for entry in (0..entries).map(|n| *list.add(n)) {
            let value = native::text(ffi::rd_kafka_ConfigEntry_value(entry));
            match native::text(ffi::rd_kafka_ConfigEntry_name(entry)).as_str() {
                "max.message.bytes" => settings.message_bytes_max = value.parse().ok(),
                "min.insync.replicas" => settings.min_insync = value.parse().ok(),
                "cleanup.policy" => settings.compacted = Some(value.contains("compact")),
                _ => {}
            }
        }
    }
    settings
}

fn c_name(topic: &TopicName) -> CString {
    CString::new(topic.as_str()).expect("a topic name holds no zero byte")
}
