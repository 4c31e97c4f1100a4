//! Requests written by hand, for what client libraries keep to themselves.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ApiVersionsRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, MetadataRequest,
    OffsetCommitRequest, RequestHeader, ResponseHeader, SyncGroupRequest, SyncGroupResponse, TopicName,
    metadata_request,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::support::{PATIENCE, eventually};

/// One connection, one request at a time.
pub struct Wire {
    stream: TcpStream,
    correlation: i32,
}

impl Wire {
    /// A connection to the first broker of `bootstrap`.
    pub fn connect(bootstrap: &str) -> Self {
        let address = bootstrap.split(',').next().expect("split gives at least one part");
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, correlation: 0 }
    }

    /// A connection to the broker that coordinates `group`.
    pub fn to_coordinator(bootstrap: &str, group: &str) -> Self {
        let mut any = Self::connect(bootstrap);
        let address = eventually("a coordinator", || {
            let request = FindCoordinatorRequest::default().with_key(text(group));
            let found = any.ask(2, &request);
            (found.error_code == 0).then(|| format!("{}:{}", found.host, found.port))
        });
        let mut wire = Self::connect(&address);
        // A real coordinator answers for a new group only once its part of the offsets is loaded.
        eventually("the coordinator is ready", || {
            let request = HeartbeatRequest::default()
                .with_group_id(group_id(group))
                .with_generation_id(1)
                .with_member_id(text("nobody"));
            // 14: load in progress, 15: not available, 16: not (yet) the coordinator.
            (!(14..=16).contains(&wire.ask(3, &request).error_code)).then_some(())
        });
        wire
    }

    /// A connection to the leader of the topic's partition 0.
    pub fn to_leader(bootstrap: &str, name: &str) -> Self {
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let answer = Self::connect(bootstrap).ask(12, &request);
        let leader = answer.topics[0].partitions[0].leader_id;
        let broker = answer.brokers.iter().find(|broker| broker.node_id == leader).expect("it has a leader");
        Self::connect(&format!("{}:{}", broker.host.as_str(), broker.port))
    }

    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// Sends without waiting for the answer.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(text("by-hand")));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version)).unwrap();
        request.encode(&mut body, version).unwrap();
        self.send_frame(&body);
    }

    /// Sends any bytes as a request.
    pub fn send_frame(&mut self, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u32(body.len() as u32);
        frame.put_slice(body);
        self.stream.write_all(&frame).unwrap();
    }

    /// For frames sent by [`Self::send_frame`].
    pub fn expect_correlation(&mut self, correlation: i32) {
        self.correlation = correlation;
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("the broker answers");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body).unwrap();
        let mut body = Bytes::from(body);
        let header = ResponseHeader::decode(&mut body, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.correlation);
        let response = R::Response::decode(&mut body, version).unwrap();
        assert!(body.is_empty(), "{} bytes left over", body.len());
        response
    }

    /// Whether the broker ends the connection without an answer.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    /// The topic's id and the leader epoch of partition 0, or the topic's error.
    pub fn topic(&mut self, name: &str) -> Result<(uuid::Uuid, i32), i16> {
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let answer = self.ask(12, &request);
        let topic = &answer.topics[0];
        if topic.error_code != 0 {
            return Err(topic.error_code);
        }
        Ok((topic.topic_id, topic.partitions[0].leader_epoch))
    }

    /// How many partitions of a topic have a leader, by this broker's word.
    pub fn leaders(&mut self, name: &str) -> usize {
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let answer = self.ask(12, &request);
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.filter(|partition| partition.leader_id.0 >= 0).count()
    }

    /// The newest version of an API that this broker offers.
    pub fn newest<R: Request>(&mut self) -> i16 {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("by-hand"))
            .with_client_software_version(text("1"));
        let offered = self.ask(3, &request).api_keys.into_iter().find(|api| api.api_key == R::KEY);
        offered.expect("the broker knows the API").max_version
    }

    /// JoinGroup v5+ as a consumer with one `range` subscription.
    pub fn join(&mut self, group: &str, member: &str, instance: Option<&str>) -> JoinGroupResponse {
        self.ask(7, &join_request(group, member, instance))
    }

    /// Joins a group, going the round trip for the member id.
    pub fn enter(&mut self, group: &str) -> JoinGroupResponse {
        let first = self.join(group, "", None);
        assert_eq!(first.error_code, 79, "MEMBER_ID_REQUIRED");
        let joined = self.join(group, &first.member_id, None);
        assert_eq!(joined.error_code, 0);
        joined
    }

    /// SyncGroup with the assignments of a leader (none for a follower).
    pub fn sync(
        &mut self,
        group: &str,
        joined: &JoinGroupResponse,
        instance: Option<&str>,
        parts: &[(&str, &[u8])],
    ) -> SyncGroupResponse {
        let part = |(member, part): &(&str, &[u8])| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(Bytes::copy_from_slice(part))
        };
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_group_instance_id(instance.map(text))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(parts.iter().map(part).collect());
        self.ask(5, &request)
    }

    pub fn heartbeat(&mut self, group: &str, member: &str, generation: i32, instance: Option<&str>) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(generation)
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text));
        self.ask(4, &request).error_code
    }

    /// OffsetCommit of one offset for partition 0 of `topic`; returns its error code.
    pub fn commit(&mut self, group: &str, topic: &str, by: &Committer<'_>, offset: i64) -> i16 {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(by.metadata.map(text));
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(by.generation)
            .with_member_id(text(by.member))
            .with_group_instance_id(by.instance.map(text))
            .with_topics(vec![topic]);
        self.ask(8, &request).topics[0].partitions[0].error_code
    }
}

/// Who commits.
#[derive(Debug, Clone, Copy)]
pub struct Committer<'a> {
    pub member: &'a str,
    pub generation: i32,
    pub instance: Option<&'a str>,
    pub metadata: Option<&'a str>,
}

impl Committer<'_> {
    /// A tool or a consumer outside the group protocol.
    pub fn outside() -> Self {
        Self { member: "", generation: -1, instance: None, metadata: None }
    }
}

pub fn join_request(group: &str, member: &str, instance: Option<&str>) -> JoinGroupRequest {
    let range = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(subscription(&["a-topic"]));
    JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![range])
}

/// ConsumerProtocolSubscription v0.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.freeze()
}

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub fn group_id(value: &str) -> GroupId {
    GroupId(text(value))
}

pub fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}
