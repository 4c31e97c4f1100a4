//! Reads any request as a connection does, without doing what it asks: for the fuzz target and the property test.

use super::{OFFERED, Refused, Request, offers};
use bytes::Bytes;
use kafka_protocol::messages::*;

macro_rules! decoders {
    ($($api:ident => $request:ty),* $(,)?) => {
        fn decode(request: &Request) -> Result<(), Refused> {
            match request.api {
                $(ApiKey::$api => request.decode::<$request>().map(|_| ()),)*
                api => Err(Refused(format!("{api:?} is not offered"))),
            }
        }

        /// A request without anything in it.
        #[cfg(test)]
        fn empty(api: ApiKey, version: i16, out: &mut bytes::BytesMut) -> bool {
            use kafka_protocol::protocol::Encodable;
            match api {
                $(ApiKey::$api => <$request>::default().encode(out, version).is_ok(),)*
                _ => false,
            }
        }
    };
}

decoders! {
    Produce => ProduceRequest,
    Fetch => FetchRequest,
    ListOffsets => ListOffsetsRequest,
    Metadata => MetadataRequest,
    ApiVersions => ApiVersionsRequest,
    CreateTopics => CreateTopicsRequest,
    InitProducerId => InitProducerIdRequest,
    CreatePartitions => CreatePartitionsRequest,
    DeleteTopics => DeleteTopicsRequest,
    DeleteRecords => DeleteRecordsRequest,
    DescribeConfigs => DescribeConfigsRequest,
    IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
    DescribeCluster => DescribeClusterRequest,
    OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
    FindCoordinator => FindCoordinatorRequest,
    JoinGroup => JoinGroupRequest,
    SyncGroup => SyncGroupRequest,
    Heartbeat => HeartbeatRequest,
    LeaveGroup => LeaveGroupRequest,
    OffsetCommit => OffsetCommitRequest,
    OffsetFetch => OffsetFetchRequest,
    ListGroups => ListGroupsRequest,
    DescribeGroups => DescribeGroupsRequest,
    DeleteGroups => DeleteGroupsRequest,
    AlterConfigs => AlterConfigsRequest,
    AlterReplicaLogDirs => AlterReplicaLogDirsRequest,
    DescribeLogDirs => DescribeLogDirsRequest,
    ElectLeaders => ElectLeadersRequest,
    AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
    ListPartitionReassignments => ListPartitionReassignmentsRequest,
    OffsetDelete => OffsetDeleteRequest,
    DescribeQuorum => DescribeQuorumRequest,
    ListConfigResources => ListConfigResourcesRequest,
    DescribeTopicPartitions => DescribeTopicPartitionsRequest,
}

/// Reads the request in `frame` (what stands behind the length on the wire, at least 8 bytes);
/// whether it can be read, or why not. The first four bytes choose among what is offered, so that
/// few inputs are wasted on the rest.
#[doc(hidden)]
pub fn read_request(frame: &[u8]) -> Result<(), String> {
    if frame.len() < 8 {
        return Err("shorter than a connection lets through".to_owned());
    }
    let (api, range) = &OFFERED[usize::from(frame[1]) % OFFERED.len()];
    let version = range.min + i16::from(frame[3]) % (range.max - range.min + 1);
    let mut frame = frame.to_vec();
    frame[..2].copy_from_slice(&(*api as i16).to_be_bytes());
    frame[2..4].copy_from_slice(&version.to_be_bytes());
    let read = Request::parse(Bytes::from(frame)).and_then(|request| {
        assert!(offers(request.api, request.version), "only what is offered is made");
        decode(&request)
    });
    read.map_err(|Refused(why)| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_request_can_be_read() {
        for (at, (api, range)) in OFFERED.iter().enumerate() {
            // A body of zeros is a request without anything in many of them; the others say what they lack.
            let frame = [&[0, u8::try_from(at).unwrap(), 0, 0][..], &[0; 60]].concat();
            let read = read_request(&frame);
            let is_offered = !matches!(&read, Err(why) if why.contains("not offered"));
            assert!(is_offered, "{api:?} from version {}: {read:?}", range.min);
        }
    }

    #[test]
    fn what_the_codec_writes_in_any_offered_version_is_read() {
        for (at, (api, range)) in OFFERED.iter().enumerate() {
            for version in range.min..=range.max {
                let mut body = bytes::BytesMut::new();
                if !empty(*api, version, &mut body) {
                    continue;
                }
                let [_, at] = u16::try_from(at).unwrap().to_be_bytes();
                let step = u8::try_from(version - range.min).unwrap();
                // Correlation id, no client id, and no tagged fields where the header has them.
                let mut frame = vec![0, at, 0, step, 0, 0, 0, 1, 0xff, 0xff];
                if api.request_header_version(version) >= 2 {
                    frame.push(0);
                }
                frame.extend_from_slice(&body);
                assert_eq!(read_request(&frame), Ok(()), "{api:?} v{version}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(frame in proptest::collection::vec(proptest::num::u8::ANY, 8..200)) {
            let _ = read_request(&frame);
        }
    }
}
