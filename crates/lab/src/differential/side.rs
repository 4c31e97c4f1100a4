//! One broker of a comparison: a connection, the versions, and what it gave us that the other gives differently.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, InitProducerIdRequest,
    JoinGroupRequest, RequestHeader, ResponseHeader, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);
/// A group that waits for a member waits longer than this, and then for both brokers alike.
const GROUP_PATIENCE: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What a broker did with a request.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It answered.
    Answer(T),
    /// It ended the connection.
    Closed,
    /// It kept us waiting: a group waits for its other members.
    Silent,
}

/// A member of a group as its coordinator knows it.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    /// Its id.
    pub member: String,
    /// The generation it joined.
    pub generation: i32,
}

/// One broker.
#[derive(Debug)]
pub struct Side {
    address: SocketAddr,
    stream: Option<TcpStream>,
    correlation: i32,
    prefix: String,
    /// For each API the versions that both sides offer.
    pub versions: BTreeMap<i16, RangeInclusive<i16>>,
    // What this broker gave out, by the names of the sequence.
    pub(super) producer: (i64, i16),
    pub(super) members: BTreeMap<u8, Membership>,
    pub(super) topic_ids: BTreeMap<String, Uuid>,
}

fn broken(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl Side {
    /// Connects to a broker.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn connect(address: &str) -> io::Result<Self> {
        let address = address.split(',').next().unwrap_or_default().parse().map_err(broken)?;
        let mut side = Self {
            address,
            stream: None,
            correlation: 0,
            prefix: String::new(),
            versions: BTreeMap::new(),
            producer: (-1, -1),
            members: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
        };
        side.stream()?;
        Ok(side)
    }

    /// Begins a sequence with names of its own.
    pub fn begin(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
        self.producer = (-1, -1);
        self.members.clear();
        self.topic_ids.clear();
    }

    /// A name of this sequence.
    #[must_use]
    pub fn name(&self, what: impl std::fmt::Display) -> String {
        format!("{}-{what}", self.prefix)
    }

    pub(super) fn versions_shared_with(
        &mut self,
        other: &mut Self,
    ) -> io::Result<BTreeMap<i16, RangeInclusive<i16>>> {
        let (ours, theirs) = (self.offered()?, other.offered()?);
        Ok(ours
            .into_iter()
            .filter_map(|(api, (low, high))| {
                let (least, most) = theirs.get(&api)?;
                Some((api, low.max(*least)..=high.min(*most)))
            })
            .collect())
    }

    /// Kafka makes its topic of offsets when a coordinator is first asked for, and loads it partition
    /// by partition; until then it refuses what concerns groups.
    pub(super) fn wait_for_coordinators(&mut self) -> io::Result<()> {
        const UNKNOWN_MEMBER_ID: i16 = 25;
        let deadline = Instant::now() + PATIENCE;
        // Producer ids are given out by a coordinator too.
        let producer = InitProducerIdRequest::default().with_transactional_id(None);
        while !matches!(self.exchange(1, &producer)?, Outcome::Answer(answer) if answer.error_code == 0) {
            if Instant::now() > deadline {
                return Err(broken("no producer ids are given out"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // So many groups touch every partition of that topic.
        for n in 0..200 {
            let group = StrBytes::from_string(format!("warm-up-{n}"));
            let find = FindCoordinatorRequest::default().with_key(group.clone());
            let beat = HeartbeatRequest::default()
                .with_group_id(GroupId(group))
                .with_member_id(StrBytes::from_static_str("nobody"));
            loop {
                self.exchange(3, &find)?;
                if let Outcome::Answer(answer) = self.exchange(3, &beat)?
                    && answer.error_code == UNKNOWN_MEMBER_ID
                {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(broken("the group coordinator does not get ready"));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn offered(&mut self) -> io::Result<BTreeMap<i16, (i16, i16)>> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("differential"))
            .with_client_software_version(StrBytes::from_static_str("1"));
        match self.exchange(3, &request)? {
            Outcome::Answer(answer) => Ok(answer
                .api_keys
                .iter()
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect()),
            Outcome::Closed | Outcome::Silent => Err(broken("no answer to ApiVersions")),
        }
    }

    /// A version of `R`'s API, `at` parts of 256 up the range that both offer.
    ///
    /// # Panics
    /// When one side does not offer the API at all.
    #[must_use]
    pub fn version<R: Request>(&self, at: u8) -> i16 {
        let range = self.versions.get(&R::KEY).unwrap_or_else(|| panic!("API {} is offered by both", R::KEY));
        // Both advertise Produce from 0 and answer it from 3 (KAFKA-18659).
        let first = if R::KEY == ApiKey::Produce as i16 { 3.max(*range.start()) } else { *range.start() };
        let steps = i32::from(*range.end() - first) + 1;
        first + i16::try_from(i32::from(at) * steps / 256).expect("below the number of versions")
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(self.stream.as_mut().expect("connected above"))
    }

    /// Sends one request and waits for its answer or the connection's end.
    ///
    /// # Errors
    /// When neither comes in time, or the answer cannot be read.
    pub fn exchange<R: Request>(&mut self, version: i16, request: &R) -> io::Result<Outcome<R::Response>> {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).map_err(broken)?;
        let header_version = R::Response::header_version(version);
        match self.exchange_raw(R::KEY, version, R::header_version(version), &body)? {
            Outcome::Closed => Ok(Outcome::Closed),
            Outcome::Silent => Ok(Outcome::Silent),
            Outcome::Answer(mut answer) => {
                ResponseHeader::decode(&mut answer, header_version).map_err(broken)?;
                Ok(Outcome::Answer(R::Response::decode(&mut answer, version).map_err(broken)?))
            }
        }
    }

    /// Sends a request of any bytes behind a header that says what it is; the answer with its header.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub fn exchange_raw(
        &mut self,
        api: i16,
        version: i16,
        header_version: i16,
        body: &[u8],
    ) -> io::Result<Outcome<Bytes>> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(api)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("differential")));
        let mut bytes = BytesMut::new();
        header.encode(&mut bytes, header_version).map_err(broken)?;
        bytes.put_slice(body);
        let mut frame = BytesMut::with_capacity(4 + bytes.len());
        frame.put_u32(u32::try_from(bytes.len()).map_err(broken)?);
        frame.put_slice(&bytes);
        let correlation = self.correlation;
        let waits = [JoinGroupRequest::KEY, SyncGroupRequest::KEY].contains(&api);
        let stream = self.stream()?;
        stream.set_read_timeout(Some(if waits { GROUP_PATIENCE } else { PATIENCE }))?;
        let answer = stream.write_all(&frame).and_then(|()| read_frame(stream));
        match answer {
            Ok(answer) if answer.len() >= 4 && (&answer[..4]).get_i32() == correlation => {
                Ok(Outcome::Answer(answer))
            }
            Ok(_) => Err(broken("an answer to another request")),
            Err(error) if is_end(&error) => {
                self.stream = None;
                Ok(Outcome::Closed)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                self.stream = None;
                Ok(Outcome::Silent)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(broken(format!("an answer of {length} bytes")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body.into())
}
