//! The requests this broker answers, one file each; here: which, in which versions, and the way in.
//!
//! A version is offered only when everything in it is honoured. What is not in
//! the table ends the connection, as Apache Kafka does for requests that a
//! client should not have sent after ApiVersions, but for what `unoffered`
//! refuses in words.

mod alter_configs;
mod alter_replica_log_dirs;
mod api_versions;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_quorum;
mod describe_topic_partitions;
mod elect_leaders;
mod fetch;
mod find_coordinator;
mod group_member;
mod group_requests;
#[cfg(test)]
mod group_tests;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod internal;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
#[cfg(any(test, fuzzing))]
mod reading;
mod reassignments;
mod refusal;
mod shape;
mod splice;
mod sync_group;
mod unoffered;

#[cfg(fuzzing)]
pub use reading::read_request;
pub(crate) use refusal::{Refusal, refusal};

use crate::connection::Client;
use crate::faults::Fault;
use crate::frame::Frame;
use crate::state::State;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ListPartitionReassignmentsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, VersionRange};
use std::pin::Pin;
use std::sync::Arc;

/// What goes back to the client.
pub enum Reply {
    /// The answer, whole.
    Now(Frame),
    /// The answer, when it is due.
    Later(Pin<Box<dyn Future<Output = Frame> + Send>>),
    /// The request wants no answer (Produce with acks=0).
    Nothing,
    /// The connection ends here (an injected fault).
    Close,
}

/// A request that ends the connection, and why.
#[derive(Debug)]
pub struct Refused(pub String);

/// The versions of each API that are implemented whole.
pub const OFFERED: &[(ApiKey, VersionRange)] = &[
    (ApiKey::Produce, VersionRange { min: 3, max: 11 }),
    (ApiKey::Fetch, VersionRange { min: 4, max: 16 }),
    (ApiKey::ListOffsets, VersionRange { min: 1, max: 8 }),
    (ApiKey::Metadata, VersionRange { min: 0, max: 12 }),
    (ApiKey::ApiVersions, VersionRange { min: 0, max: 4 }),
    (ApiKey::CreateTopics, VersionRange { min: 2, max: 7 }),
    (ApiKey::InitProducerId, VersionRange { min: 0, max: 4 }),
    (ApiKey::CreatePartitions, VersionRange { min: 0, max: 3 }),
    (ApiKey::DeleteTopics, VersionRange { min: 1, max: 6 }),
    (ApiKey::DeleteRecords, VersionRange { min: 0, max: 2 }),
    (ApiKey::DescribeConfigs, VersionRange { min: 1, max: 4 }),
    (ApiKey::IncrementalAlterConfigs, VersionRange { min: 0, max: 1 }),
    (ApiKey::DescribeCluster, VersionRange { min: 0, max: 2 }),
    (ApiKey::OffsetForLeaderEpoch, VersionRange { min: 2, max: 4 }),
    (ApiKey::FindCoordinator, VersionRange { min: 0, max: 6 }),
    (ApiKey::JoinGroup, VersionRange { min: 0, max: 9 }),
    (ApiKey::SyncGroup, VersionRange { min: 0, max: 5 }),
    (ApiKey::Heartbeat, VersionRange { min: 0, max: 4 }),
    (ApiKey::LeaveGroup, VersionRange { min: 0, max: 5 }),
    (ApiKey::OffsetCommit, VersionRange { min: 2, max: 9 }),
    (ApiKey::OffsetFetch, VersionRange { min: 1, max: 9 }),
    (ApiKey::ListGroups, VersionRange { min: 0, max: 5 }),
    (ApiKey::DescribeGroups, VersionRange { min: 0, max: 6 }),
    (ApiKey::DeleteGroups, VersionRange { min: 0, max: 2 }),
    (ApiKey::AlterConfigs, VersionRange { min: 0, max: 2 }),
    (ApiKey::AlterReplicaLogDirs, VersionRange { min: 1, max: 2 }),
    (ApiKey::DescribeLogDirs, VersionRange { min: 1, max: 4 }),
    (ApiKey::ElectLeaders, VersionRange { min: 0, max: 2 }),
    (ApiKey::AlterPartitionReassignments, VersionRange { min: 0, max: 1 }),
    (ApiKey::ListPartitionReassignments, VersionRange { min: 0, max: 0 }),
    (ApiKey::OffsetDelete, VersionRange { min: 0, max: 0 }),
    (ApiKey::DescribeQuorum, VersionRange { min: 0, max: 2 }),
    (ApiKey::ListConfigResources, VersionRange { min: 0, max: 1 }),
    (ApiKey::DescribeTopicPartitions, VersionRange { min: 0, max: 0 }),
];

/// Produce is advertised from here on although nothing before version 3 is answered, as Kafka 4
/// does (KAFKA-18659): librdkafka up to 2.11 takes a broker that begins later for one that
/// understands no compression, and sends everything uncompressed.
const PRODUCE_ADVERTISED_FROM: i16 = 0;

fn offers(api: ApiKey, version: i16) -> bool {
    OFFERED.iter().any(|(offered, range)| *offered == api && (range.min..=range.max).contains(&version))
}

/// One request on its way through.
pub struct Request {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: String,
    body: Bytes,
}

impl Request {
    fn parse(mut frame: Bytes) -> Result<Self, Refused> {
        let key = i16::from_be_bytes([frame[0], frame[1]]);
        let version = i16::from_be_bytes([frame[2], frame[3]]);
        let api = ApiKey::try_from(key).map_err(|()| Refused(format!("unknown API key {key}")))?;
        let known = offers(api, version) || unoffered::is_refused(api, version);
        let header_version = if known { api.request_header_version(version) } else { 1 };
        shape::check_header(&frame, header_version)?;
        let header = RequestHeader::decode(&mut frame, header_version)
            .map_err(|error| Refused(format!("{api:?} v{version}: unreadable header: {error}")))?;
        Ok(Self {
            api,
            version,
            correlation_id: header.correlation_id,
            client_id: header.client_id.map(|id| id.to_string()).unwrap_or_default(),
            body: frame,
        })
    }

    fn decode<T: Decodable>(&self) -> Result<T, Refused> {
        shape::check(self.api, self.version, &self.body)?;
        let mut body = self.body.clone();
        T::decode(&mut body, self.version)
            .map_err(|error| Refused(format!("{:?} v{}: unreadable: {error}", self.api, self.version)))
    }

    fn encode<T: Encodable>(&self, answer: &T) -> Result<Bytes, Refused> {
        encode(self.api, self.version, self.correlation_id, answer)
    }
}

fn encode<T: Encodable>(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    answer: &T,
) -> Result<Bytes, Refused> {
    let header_version = api.response_header_version(version);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let unwritable = |error| Refused(format!("{api:?} v{version}: cannot write the answer: {error}"));
    let bytes = header.compute_size(header_version).and_then(|size| Ok(size + answer.compute_size(version)?));
    let mut frame = BytesMut::with_capacity(4 + bytes.map_err(unwritable)?);
    frame.put_i32(0);
    header.encode(&mut frame, header_version).map_err(unwritable)?;
    answer.encode(&mut frame, version).map_err(unwritable)?;
    let length = i32::try_from(frame.len() - 4).map_err(|error| Refused(error.to_string()))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// Works on one request.
///
/// # Errors
/// [`Refused`] ends the connection: a request that cannot be read, or one that was not offered.
pub async fn answer(state: &Arc<State>, client: &Client, frame: Bytes) -> Result<Reply, Refused> {
    let request = Request::parse(frame)?;
    if !offers(request.api, request.version) {
        return match request.api {
            ApiKey::ApiVersions => api_versions::unsupported(request.correlation_id).map(now),
            api if unoffered::is_refused(api, request.version) => unoffered::answer(&request).map(now),
            api => Err(Refused(format!("{api:?} v{} is not offered", request.version))),
        };
    }
    let fault = state.faults.strike(request.api);
    if fault == Some(Fault::DropConnection) {
        return Ok(Reply::Close);
    }
    let reply = work(state, client, &request, fault).await?;
    match fault {
        Some(Fault::DropResponse) => {
            if let Reply::Later(answer) = reply {
                answer.await;
            }
            Ok(Reply::Close)
        }
        Some(Fault::Delay(delay)) => Ok(Reply::Later(Box::pin(async move {
            let answer = match reply {
                Reply::Now(answer) => answer,
                Reply::Later(answer) => answer.await,
                Reply::Nothing | Reply::Close => Frame::default(),
            };
            tokio::time::sleep(delay).await;
            answer
        }))),
        _ => Ok(reply),
    }
}

async fn work(
    state: &Arc<State>,
    client: &Client,
    request: &Request,
    fault: Option<Fault>,
) -> Result<Reply, Refused> {
    if let Some(answer) = group_requests::work(state, client, request, fault).await {
        return answer.map(now);
    }
    let version = request.version;
    match request.api {
        ApiKey::Fetch => {
            let answer = fetch::answer(state, request.decode()?, fault).await;
            fetch::encode(request, answer).map(Reply::Now)
        }
        ApiKey::Metadata => {
            let answer = metadata::answer(state, client, request.decode()?, version, fault);
            request.encode(&answer).map(now)
        }
        ApiKey::ApiVersions => request.encode(&api_versions::answer()).map(now),
        // The rest reads or writes files.
        _ => {
            let work = || {
                if let Some(Fault::SlowDisk(delay)) = fault {
                    std::thread::sleep(delay);
                }
                at_disk(state, client, request, fault)
            };
            state.on_disk(work).await
        }
    }
}

/// Requests that may wait for the disk; runs where that holds up nobody else.
fn at_disk(
    state: &Arc<State>,
    client: &Client,
    request: &Request,
    fault: Option<Fault>,
) -> Result<Reply, Refused> {
    let version = request.version;
    let answer = match request.api {
        ApiKey::Produce => return produce::begin(state, request, fault),
        ApiKey::ListOffsets => {
            request.encode(&list_offsets::answer(state, request.decode()?, version, fault))
        }
        ApiKey::CreateTopics => request.encode(&create_topics::answer(state, request.decode()?, fault)),
        ApiKey::InitProducerId => request.encode(&init_producer_id::answer(state, &request.decode()?, fault)),
        _ if injected_code(fault).is_some() => return Ok(Reply::Close),
        ApiKey::CreatePartitions => request.encode(&create_partitions::answer(state, &request.decode()?)),
        ApiKey::DeleteTopics => {
            let asked = request.decode()?;
            let deleted = delete_topics::answer(state, &asked, version);
            request.encode(&tokio::runtime::Handle::current().block_on(deleted))
        }
        ApiKey::DeleteRecords => request.encode(&delete_records::answer(state, &request.decode()?)),
        ApiKey::DescribeConfigs => {
            request.encode(&describe_configs::answer(state, &request.decode()?, version))
        }
        ApiKey::AlterConfigs => request.encode(&alter_configs::answer(state, &request.decode()?)),
        ApiKey::IncrementalAlterConfigs => {
            request.encode(&incremental_alter_configs::answer(state, &request.decode()?))
        }
        ApiKey::ListConfigResources => {
            request.encode(&list_config_resources::answer(state, &request.decode()?, version))
        }
        ApiKey::OffsetForLeaderEpoch => {
            request.encode(&offset_for_leader_epoch::answer(state, &request.decode()?))
        }
        _ => return about_the_node(state, client, request),
    };
    answer.map(now)
}

/// What tools ask about a cluster, answered for the one node.
fn about_the_node(state: &State, client: &Client, request: &Request) -> Result<Reply, Refused> {
    let version = request.version;
    let answer = match request.api {
        ApiKey::DescribeCluster => {
            request.encode(&describe_cluster::answer(state, client, &request.decode()?, version))
        }
        ApiKey::DescribeQuorum => {
            request.encode(&describe_quorum::answer(state, client, &request.decode()?, version))
        }
        ApiKey::DescribeTopicPartitions => {
            request.encode(&describe_topic_partitions::answer(state, &request.decode()?))
        }
        ApiKey::DescribeLogDirs => request.encode(&describe_log_dirs::answer(state, &request.decode()?)),
        ApiKey::AlterReplicaLogDirs => {
            request.encode(&alter_replica_log_dirs::answer(state, &request.decode()?))
        }
        ApiKey::ElectLeaders => request.encode(&elect_leaders::answer(state, &request.decode()?, version)),
        ApiKey::AlterPartitionReassignments => {
            request.encode(&reassignments::alter(state, &request.decode()?))
        }
        ApiKey::ListPartitionReassignments => {
            let _asked: ListPartitionReassignmentsRequest = request.decode()?;
            request.encode(&reassignments::list())
        }
        api => Err(Refused(format!("{api:?} is not offered"))),
    };
    answer.map(now)
}

fn now(answer: Bytes) -> Reply {
    Reply::Now(answer.into())
}

/// The error code that an injected fault puts into the answer.
fn injected_code(fault: Option<Fault>) -> Option<i16> {
    match fault {
        Some(Fault::ErrorCode(code)) => Some(code),
        _ => None,
    }
}
