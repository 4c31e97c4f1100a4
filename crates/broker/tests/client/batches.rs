//! Batches that lie about what is in them, or hold far more than they look: refused, at no cost.

use std::io::Write;

use bytes::Bytes;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ListOffsetsRequest, ProduceRequest};

use crate::support::{Admin, Group, Producer, Serve, Served, Target};
use crate::wire::{Wire, topic_name};

const INVALID_RECORD: i16 = 87;
const UNKNOWN_SERVER_ERROR: i16 = -1;
const MEMORY_TEST: &str = "batches::embedded_a_small_batch_that_unpacks_to_much_takes_little_memory";

/// A batch with a right checksum around any body.
pub fn batch(records: i32, codec: u8, body: &[u8]) -> Bytes {
    let mut bytes = vec![0; 61];
    bytes[8..12].copy_from_slice(&(49 + body.len() as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[22] = codec;
    bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for at in [27, 35] {
        bytes[at..at + 8].copy_from_slice(&(now.as_millis() as i64).to_be_bytes());
    }
    bytes[43..57].fill(0xff);
    bytes[57..61].copy_from_slice(&records.to_be_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// One record without a key, up to its value of so many bytes.
fn record_before_value(value_bytes: u64) -> Vec<u8> {
    let mut fields = vec![0, 0, 0, 1];
    put_varint(&mut fields, value_bytes);
    let mut record = Vec::new();
    put_varint(&mut record, fields.len() as u64 + value_bytes + 1);
    record.extend_from_slice(&fields);
    record
}

/// One record without a key.
pub fn record(value: &[u8]) -> Vec<u8> {
    [&record_before_value(value.len() as u64)[..], value, &[0]].concat()
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut left = value << 1;
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

pub fn request(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![topic])
}

pub fn produce(wire: &mut Wire, topic: &str, records: Bytes) -> PartitionProduceResponse {
    wire.ask(9, &request(topic, 0, -1, records)).responses.remove(0).partition_responses.remove(0)
}

fn offset_for_time(wire: &mut Wire, topic: &str, timestamp: i64) -> (i16, i64) {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let found = wire.ask(5, &request).topics.remove(0).partitions.remove(0);
    (found.error_code, found.offset)
}

#[test]
fn a_batch_that_claims_more_than_it_holds_is_refused_and_harms_nobody() {
    let target = Target::start();
    let topic = target.topic(1);
    let mut wire = Wire::to_leader(target.bootstrap(), &topic);
    let sound = record(b"abc");
    for (records, body) in [(i32::MAX, &b""[..]), (1, b""), (2, &sound[..]), (1, &sound[..sound.len() - 1])] {
        let code = produce(&mut wire, &topic, batch(records, 0, body)).error_code;
        assert_eq!(code, INVALID_RECORD, "{records} records in {body:?}");
    }
    // What cannot be unpacked: Kafka has no code for it.
    let code = produce(&mut wire, &topic, batch(1, 1, b"no gzip")).error_code;
    assert!([INVALID_RECORD, UNKNOWN_SERVER_ERROR].contains(&code), "{code}");
    assert_eq!(produce(&mut wire, &topic, batch(1, 0, &sound)).error_code, 0);
    assert_eq!(offset_for_time(&mut wire, &topic, 1), (0, 0));
    assert_eq!(Producer::new(target.bootstrap(), &[]).send(&topic, 0, &["after"]), [1]);
    assert_eq!(Group::assigned(target.bootstrap(), &topic, 1, &[]).read(2)[1].text(), "after");
}

#[test]
fn records_refused_without_an_answer_close_the_connection() {
    let target = Target::start();
    let topic = target.topic(1);
    let mut wire = Wire::to_leader(target.bootstrap(), &topic);
    let sound = record(b"abc");
    wire.send(9, &request(&topic, 0, 0, batch(1, 0, &sound)));
    // An answer to the next request shows that nothing was answered before it.
    assert_eq!(wire.leaders(&topic), 1);
    wire.send(9, &request(&topic, 0, 0, batch(i32::MAX, 0, b"")));
    assert!(wire.is_closed(), "the producer would never know");
    assert_eq!(Group::assigned(target.bootstrap(), &topic, 1, &[]).read(1).len(), 1);
}

#[test]
fn embedded_a_small_batch_that_unpacks_to_much_takes_little_memory() {
    const UNPACKED: u64 = 400 << 20;
    if Served::was_the_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(Serve { test: MEMORY_TEST, dir: dir.path(), at: None, file_kib_max: None });
    let address = served.address.to_string();
    Admin::new(&address).create("t", 1, &[]).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&record_before_value(UNPACKED)).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..UNPACKED >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.write_all(&[0]).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(packed.len() < 4 << 20, "{} bytes", packed.len());
    let mut wire = Wire::connect(&address);
    let limit = [("max.message.bytes", "8000000")];
    Admin::new(&address).create("large", 1, &limit).unwrap();
    let before = served.memory_peak_kib();
    assert_eq!(produce(&mut wire, "large", batch(1, 1, &packed)).error_code, 0, "as Kafka does");
    assert_eq!(offset_for_time(&mut wire, "large", 1), (0, 0));
    let taken = served.memory_peak_kib() - before;
    assert!(taken < 64 << 10, "{taken} KiB for {} bytes", packed.len());
}
