//! Clients that mean harm, or are broken: whatever they do, others are served and memory stays bounded.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use homing_broker::{ApiKey, Broker, BrokerOptions, Count, Fault, RunningBroker};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, ConsumerGroupHeartbeatRequest, FetchRequest, MetadataRequest, RequestHeader,
};
use kafka_protocol::protocol::{Encodable, Request};

use crate::support::{Admin, PATIENCE, Producer, Serve, Served, eventually};
use crate::wire::{Wire, text, topic_name};

struct Bench {
    broker: RunningBroker,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

fn bench(change: impl FnOnce(&mut BrokerOptions)) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let mut options = BrokerOptions { dir: dir.path().to_path_buf(), ..BrokerOptions::default() };
    change(&mut options);
    let broker = Broker::start(options).unwrap();
    let address = broker.addr();
    Bench { broker, address, _dir: dir }
}

fn ask_versions(address: SocketAddr) -> usize {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("by-hand"))
        .with_client_software_version(text("1"));
    Wire::connect(&address.to_string()).ask(3, &request).api_keys.len()
}

/// Whether the other side has ended the connection, waiting for it if need be.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn frame<R: Request>(version: i16, request: &R) -> BytesMut {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(1);
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let mut frame = BytesMut::new();
    frame.put_u32(body.len() as u32);
    frame.put_slice(&body);
    frame
}

/// So many sockets that send `bytes` and then nothing; a descriptor limit is no fault of the broker.
fn silent(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        // Its place may be another's by now.
        let _ = stream.write_all(bytes);
        stream
    };
    (0..count).map(connect).collect()
}

#[test]
fn embedded_silent_sockets_lock_nobody_out() {
    let bench = bench(|options| options.connections_max = 100);
    let mut early = Wire::connect(&bench.address.to_string());
    early.newest::<MetadataRequest>();
    let crowd = silent(bench.address, 150, b"");
    assert!(ask_versions(bench.address) > 20, "a newcomer is served while they all stay");
    early.newest::<MetadataRequest>();
    drop(crowd);
}

#[test]
fn embedded_half_frames_lock_nobody_out() {
    let bench = bench(|options| options.connections_max = 100);
    let half = [&1_000_000_u32.to_be_bytes()[..], &[0, 3, 0, 1]].concat();
    let crowd = silent(bench.address, 150, &half);
    assert!(ask_versions(bench.address) > 20);
    drop(crowd);
}

#[test]
fn embedded_a_connection_at_work_is_not_ended_for_a_newcomer() {
    let bench = bench(|options| options.connections_max = 10);
    let address = bench.address.to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    let mut waiting = Wire::connect(&address);
    bench.broker.faults().inject(ApiKey::Fetch, Fault::Delay(Duration::ZERO), Count::Once);
    waiting.send(4, &fetch("t", 60_000));
    eventually("its request has arrived", || {
        (bench.broker.faults().waiting(ApiKey::Fetch) == 0).then_some(())
    });
    let crowd = silent(bench.address, 30, b"");
    assert!(ask_versions(bench.address) > 20);
    drop(crowd);
    Producer::new(&address, &[]).send("t", 0, &["it waited for this"]);
    let answer = waiting.receive::<FetchRequest>(4);
    assert!(!answer.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
}

fn fetch(topic: &str, wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_partition(0).with_partition_max_bytes(4 * 1024 * 1024);
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(i32::MAX)
        .with_topics(vec![topic])
}

#[test]
fn embedded_one_address_takes_no_more_than_its_share() {
    let bench = bench(|options| options.connections_per_address_max = 5);
    let mut crowd = silent(bench.address, 6, b"");
    assert!(is_closed(&mut crowd[0]), "its eldest goes");
    ask_versions(bench.address);
}

#[test]
fn embedded_who_never_asks_or_stops_asking_or_stops_in_the_middle_is_closed() {
    let bench = bench(|options| {
        options.first_request_timeout = Duration::from_millis(100);
        options.idle_timeout = Duration::from_millis(100);
        options.transfer_timeout = Duration::from_millis(100);
    });
    let mut never = TcpStream::connect(bench.address).unwrap();
    assert!(is_closed(&mut never));
    let mut once = TcpStream::connect(bench.address).unwrap();
    once.write_all(&frame(1, &MetadataRequest::default())).unwrap();
    assert!(is_closed(&mut once), "after its answer");
    for half in [&[0, 0][..], &[0, 0, 1, 0, 0, 3]] {
        let mut middle = TcpStream::connect(bench.address).unwrap();
        middle.write_all(half).unwrap();
        assert!(is_closed(&mut middle));
    }
}

#[test]
fn embedded_a_request_that_comes_drop_by_drop_is_cut_off() {
    let bench = bench(|options| {
        options.first_request_timeout = Duration::from_secs(60);
        options.transfer_timeout = Duration::from_millis(300);
    });
    let mut stream = TcpStream::connect(bench.address).unwrap();
    stream.write_all(&1_000_u32.to_be_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let started = Instant::now();
    let cut_off = loop {
        if stream.write_all(b"x").is_err() {
            break true;
        }
        match stream.read(&mut [0]) {
            Ok(_) => break true,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break true,
            Err(_) => {}
        }
        if started.elapsed() > PATIENCE {
            break false;
        }
    };
    assert!(cut_off, "each byte is progress, and a thousand of them would take for ever");
}

#[test]
fn embedded_lengths_and_counts_that_cannot_be_true_cost_nothing() {
    let bench = bench(|_| {});
    let mut odd: Vec<Vec<u8>> = Vec::new();
    for announced in [-1_i32, i32::MIN, i32::MAX, 0, 7, 100 * 1024 * 1024 + 1] {
        odd.push(announced.to_be_bytes().to_vec());
    }
    // Metadata of 2^31-1 topics, and one of a million empty names; Produce to 2^31-1 topics.
    let header = [0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff];
    let with_length = |body: Vec<u8>| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
    odd.push(with_length([&header[..], &i32::MAX.to_be_bytes()].concat()));
    odd.push(with_length([&header[..], &1_000_000_i32.to_be_bytes(), &[0; 2_000_000]].concat()));
    let produce = [0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 1];
    odd.push(with_length([&produce[..], &i32::MAX.to_be_bytes()].concat()));
    for bytes in odd {
        let mut stream = TcpStream::connect(bench.address).unwrap();
        // It may be closed before all is sent.
        let _ = stream.write_all(&bytes);
        assert!(is_closed(&mut stream), "{:?}…", &bytes[..bytes.len().min(20)]);
    }
    assert!(ask_versions(bench.address) > 20);
}

#[test]
fn embedded_random_bytes_end_only_their_own_connection() {
    let bench = bench(|options| options.transfer_timeout = Duration::from_millis(500));
    let mut honest = Wire::connect(&bench.address.to_string());
    // A fixed sequence: xorshift.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let length = usize::try_from(next() % 300).unwrap();
        let body: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        let mut stream = TcpStream::connect(bench.address).unwrap();
        let bytes = if next() % 2 == 0 {
            body
        } else {
            // A plausible start: an API and a version that exist.
            let start = [0, next().to_le_bytes()[0] % 76, 0, next().to_le_bytes()[0] % 10];
            let length = u32::try_from(start.len() + body.len()).unwrap();
            [&length.to_be_bytes()[..], &start, &body].concat()
        };
        let _ = stream.write_all(&bytes);
    }
    honest.newest::<MetadataRequest>();
}

/// The memory a process has in use, in MiB.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

#[test]
fn embedded_answers_that_nobody_reads_are_not_kept_by_the_gigabyte() {
    if Served::was_the_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(Serve {
        test: "hostile::embedded_answers_that_nobody_reads_are_not_kept_by_the_gigabyte",
        dir: dir.path(),
        at: None,
        file_kib_max: None,
    });
    let address = served.address.to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    let producer = Producer::new(&address, &[]);
    let payload = vec![7; 500_000];
    (0..8).for_each(|_| producer.queue("t", 0, None, Some(&payload)));
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let before = resident_mib(served.pid());
    // 256 questions of 4 MB each: a gigabyte of answers, of which nobody reads one.
    let question = frame(4, &fetch("t", 0));
    let mut deaf = TcpStream::connect(served.address).unwrap();
    for _ in 0..256 {
        deaf.write_all(&question).unwrap();
    }
    let mut most = 0;
    let started = Instant::now();
    // Others are served meanwhile, and what is kept has long reached its limit then.
    while started.elapsed() < Duration::from_secs(2) {
        ask_versions(served.address);
        most = most.max(resident_mib(served.pid()));
    }
    assert!(most < before + 60, "{before} MiB before, {most} MiB with a gigabyte of unread answers");
    drop(deaf);
}

#[test]
fn embedded_half_requests_of_all_connections_together_are_bounded() {
    let bench = bench(|options| {
        options.request_bytes_max = 8 * 1024 * 1024;
        options.held_bytes_max = 8 * 1024 * 1024;
        options.first_request_timeout = Duration::from_secs(600);
        options.transfer_timeout = Duration::from_secs(600);
    });
    // Eight connections that each stop a byte before the end of 4 MiB: more than all may hold.
    let body = vec![0; 4 * 1024 * 1024];
    let half = [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body[1..]].concat();
    let crowd: Vec<_> = (0..8)
        .map(|_| {
            let address = bench.address;
            let half = half.clone();
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                // Ended in the middle when its place is needed.
                let _ = stream.write_all(&half);
                stream
            })
        })
        .collect();
    let address = bench.address.to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    let payload = vec![7; 900_000];
    let producer = Producer::new(&address, &[]);
    producer.queue("t", 0, None, Some(&payload));
    assert!(producer.deliveries().iter().all(Result::is_ok), "a megabyte gets through all the same");
    drop(crowd);
}

#[test]
fn embedded_a_disk_that_hangs_holds_up_only_those_who_need_it() {
    let bench = bench(|_| {});
    let address = bench.address.to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    let long = Duration::from_secs(8);
    bench.broker.faults().inject(ApiKey::ListOffsets, Fault::SlowDisk(long), Count::Times(8));
    let ask = frame(1, &kafka_protocol::messages::ListOffsetsRequest::default());
    let started = Instant::now();
    let mut stuck: Vec<TcpStream> = silent(bench.address, 8, &ask);
    eventually("all eight are at the disk", || {
        let still = bench.broker.faults().waiting(ApiKey::ListOffsets);
        (still == 0).then_some(())
    });
    for _ in 0..20 {
        ask_versions(bench.address);
    }
    assert!(
        started.elapsed() < long,
        "answered after {:?}, only when the disk was free again",
        started.elapsed()
    );
    let mut length = [0; 4];
    stuck[0].set_read_timeout(Some(PATIENCE)).unwrap();
    stuck[0].read_exact(&mut length).unwrap();
}

#[test]
fn embedded_a_feature_that_is_not_offered_is_refused_in_words() {
    let bench = bench(|_| {});
    let mut wire = Wire::connect(&bench.address.to_string());
    let asked = ConsumerGroupHeartbeatRequest::default().with_member_id(text("m"));
    assert_eq!(wire.ask(0, &asked).error_code, 35, "UNSUPPORTED_VERSION");
    // The connection stands.
    let named = MetadataRequestTopic::default().with_name(Some(topic_name("none")));
    let answer = wire.ask(1, &MetadataRequest::default().with_topics(Some(vec![named])));
    assert_eq!(answer.topics[0].error_code, 3);
}
