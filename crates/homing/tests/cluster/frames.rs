//! Requests and answers of Kafka's protocol, as far as a go-between has to understand them.

use homing_broker::ApiKey;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterResponse, FetchRequest, FetchResponse, FindCoordinatorResponse,
    HeartbeatResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse, ProduceRequest, ProduceResponse, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Reads one frame, its length included.
pub fn read(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    frame.resize(4 + length, 0);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}

fn framed(header: &impl Encodable, header_version: i16, body: &impl Encodable, version: i16) -> Vec<u8> {
    let mut frame = vec![0; 4];
    header.encode(&mut frame, header_version).unwrap();
    body.encode(&mut frame, version).unwrap();
    let length = u32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// How many partitions of a topic have a leader, by the word of one broker.
pub fn leaders(broker: &str, topic: &str) -> usize {
    const VERSION: i16 = 12;
    let header_version = ApiKey::Metadata.request_header_version(VERSION);
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::Metadata as i16)
        .with_request_api_version(VERSION);
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from(topic.to_owned()))));
    let question =
        MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
    let mut stream = TcpStream::connect(broker).unwrap();
    stream.write_all(&framed(&header, header_version, &question, VERSION)).unwrap();
    let mut answer = bytes::Bytes::from(read(&stream).unwrap().split_off(4));
    ResponseHeader::decode(&mut answer, ApiKey::Metadata.response_header_version(VERSION)).unwrap();
    let answer = MetadataResponse::decode(&mut answer, VERSION).unwrap();
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.filter(|partition| partition.leader_id.0 >= 0).count()
}

/// A client's request on its way.
pub struct Request {
    /// None: one this build does not know, which is handed on as it is.
    pub api: Option<ApiKey>,
    version: i16,
    pub frame: Vec<u8>,
}

impl Request {
    pub fn parse(frame: Vec<u8>) -> Self {
        let number = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
        let (api, version) = (ApiKey::try_from(number(4)).ok(), number(6));
        Self { api, version, frame }
    }

    fn correlation_id(&self) -> i32 {
        i32::from_be_bytes([self.frame[8], self.frame[9], self.frame[10], self.frame[11]])
    }

    fn body<T: Decodable>(&self, api: ApiKey) -> T {
        let mut rest = bytes::Bytes::copy_from_slice(&self.frame[4..]);
        RequestHeader::decode(&mut rest, api.request_header_version(self.version)).unwrap();
        T::decode(&mut rest, self.version).unwrap()
    }

    fn answer(&self, api: ApiKey, body: &impl Encodable) -> Vec<u8> {
        let header = ResponseHeader::default().with_correlation_id(self.correlation_id());
        framed(&header, api.response_header_version(self.version), body, self.version)
    }

    /// The broker's answer with its brokers' addresses replaced by ports of ours.
    pub fn readdressed(&self, answer: Vec<u8>, door: impl Fn(&str, i32) -> u16) -> Vec<u8> {
        let ours = |host: &mut StrBytes, port: &mut i32| {
            // A coordinator that is not there has no address.
            if *port > 0 {
                *port = i32::from(door(host, *port));
                *host = StrBytes::from_static_str("127.0.0.1");
            }
        };
        match self.api {
            Some(api @ ApiKey::Metadata) => self.changed(api, answer, |body: &mut MetadataResponse| {
                body.brokers.iter_mut().for_each(|at| ours(&mut at.host, &mut at.port));
            }),
            Some(api @ ApiKey::FindCoordinator) => {
                self.changed(api, answer, |body: &mut FindCoordinatorResponse| {
                    ours(&mut body.host, &mut body.port);
                    body.coordinators.iter_mut().for_each(|at| ours(&mut at.host, &mut at.port));
                })
            }
            Some(api @ ApiKey::DescribeCluster) => {
                self.changed(api, answer, |body: &mut DescribeClusterResponse| {
                    body.brokers.iter_mut().for_each(|at| ours(&mut at.host, &mut at.port));
                })
            }
            // From these versions on an answer may name the new leader's address.
            Some(api @ ApiKey::Produce) if self.version >= 10 => {
                self.changed(api, answer, |body: &mut ProduceResponse| {
                    body.node_endpoints.iter_mut().for_each(|at| ours(&mut at.host, &mut at.port));
                })
            }
            Some(api @ ApiKey::Fetch) if self.version >= 16 => {
                self.changed(api, answer, |body: &mut FetchResponse| {
                    body.node_endpoints.iter_mut().for_each(|at| ours(&mut at.host, &mut at.port));
                })
            }
            _ => answer,
        }
    }

    fn changed<T: Decodable + Encodable>(
        &self,
        api: ApiKey,
        answer: Vec<u8>,
        change: impl FnOnce(&mut T),
    ) -> Vec<u8> {
        let mut rest = bytes::Bytes::from(answer).slice(4..);
        ResponseHeader::decode(&mut rest, api.response_header_version(self.version)).unwrap();
        let mut body = T::decode(&mut rest, self.version).unwrap();
        change(&mut body);
        self.answer(api, &body)
    }

    /// The broker's answer without the records in it.
    pub fn without_records(&self, answer: Vec<u8>) -> Vec<u8> {
        match self.api {
            Some(api @ ApiKey::Fetch) => self.changed(api, answer, |body: &mut FetchResponse| {
                let partitions = body.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
                partitions.for_each(|partition| partition.records = Some(bytes::Bytes::new()));
            }),
            _ => answer,
        }
    }

    /// The length of the longest metadata in a commit; 0 for anything else.
    pub fn metadata_size(&self) -> usize {
        if self.api != Some(ApiKey::OffsetCommit) {
            return 0;
        }
        let body: OffsetCommitRequest = self.body(ApiKey::OffsetCommit);
        let partitions = body.topics.iter().flat_map(|topic| &topic.partitions);
        let sizes =
            partitions.map(|partition| partition.committed_metadata.as_ref().map_or(0, |text| text.len()));
        sizes.max().unwrap_or(0)
    }

    /// An answer with this error code everywhere, of a broker that did nothing.
    pub fn refused(&self, code: i16) -> Vec<u8> {
        match self.api {
            Some(api @ ApiKey::Produce) => self.answer(api, &produced(self.body(api), |_, _| (code, -1))),
            Some(api @ ApiKey::Fetch) => self.answer(api, &unfetched(self.body(api), code)),
            Some(api @ ApiKey::ListOffsets) => self.answer(api, &unlisted(self.body(api), code)),
            Some(api @ ApiKey::OffsetCommit) => self.answer(api, &uncommitted(self.body(api), code)),
            Some(api @ ApiKey::Heartbeat) => {
                self.answer(api, &HeartbeatResponse::default().with_error_code(code))
            }
            api => panic!("no test has {api:?} refused yet"),
        }
    }

    /// An acknowledgement of records that the broker never sees, at the offsets they would have had.
    pub fn acknowledged_falsely(&self, broker: &TcpStream) -> io::Result<Vec<u8>> {
        let mut failed = None;
        let answer =
            produced(self.body(ApiKey::Produce), |topic, partition| match end_of(broker, topic, partition) {
                Ok(end) => (0, end),
                Err(error) => {
                    failed = Some(error);
                    (0, -1)
                }
            });
        failed.map_or_else(|| Ok(self.answer(ApiKey::Produce, &answer)), Err)
    }
}

/// The offset after the last record of a partition, asked of its leader.
fn end_of(mut broker: &TcpStream, topic: &TopicName, partition: i32) -> io::Result<i64> {
    const VERSION: i16 = 4;
    const LATEST: i64 = -1;
    let api = ApiKey::ListOffsets;
    let header = RequestHeader::default().with_request_api_key(api as i16).with_request_api_version(VERSION);
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(LATEST);
    let topic = ListOffsetsTopic::default().with_name(topic.clone()).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    broker.write_all(&framed(&header, api.request_header_version(VERSION), &request, VERSION))?;
    let mut rest = bytes::Bytes::from(read(broker)?).slice(4..);
    ResponseHeader::decode(&mut rest, api.response_header_version(VERSION)).unwrap();
    let answer = ListOffsetsResponse::decode(&mut rest, VERSION).unwrap();
    let found = &answer.topics[0].partitions[0];
    assert_eq!(found.error_code, 0, "a lie has to be told where the leader is");
    Ok(found.offset)
}

fn produced(
    request: ProduceRequest,
    mut outcome: impl FnMut(&TopicName, i32) -> (i16, i64),
) -> ProduceResponse {
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|data| {
            let (code, base_offset) = outcome(&topic.name, data.index);
            PartitionProduceResponse::default()
                .with_index(data.index)
                .with_error_code(code)
                .with_base_offset(base_offset)
                .with_log_append_time_ms(-1)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partition_responses(partitions.collect())
    });
    ProduceResponse::default().with_responses(topics.collect())
}

fn unfetched(request: FetchRequest, code: i16) -> FetchResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            PartitionData::default()
                .with_partition_index(partition.partition)
                .with_error_code(code)
                .with_high_watermark(-1)
                .with_aborted_transactions(None)
                .with_records(Some(bytes::Bytes::new()))
        });
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    FetchResponse::default().with_responses(topics.collect())
}

fn unlisted(request: ListOffsetsRequest, code: i16) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn uncommitted(request: OffsetCommitRequest, code: i16) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
