//! Getting records in: what goes in comes out, bit by bit, and what must not go in does not.

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::ToBytes;
use rdkafka::producer::BaseRecord;

use crate::support::{Group, Producer, Target, headers};

#[test]
fn a_record_comes_back_with_key_value_headers_and_timestamp() {
    let target = Target::start();
    let topic = target.topic(1);
    let producer = Producer::new(target.bootstrap(), &[]);
    let list: [(&str, Option<&[u8]>); 4] =
        [("a", Some(b"1")), ("empty", Some(b"")), ("null", None), ("a", Some(b"again \0\xff"))];
    let record = BaseRecord::to(&topic)
        .partition(0)
        .key(b"key".as_slice())
        .payload(b"value \0\xfe".as_slice())
        .timestamp(1_700_000_000_123)
        .headers(headers(&list));
    producer.queue_record(record).unwrap();
    assert_eq!(producer.deliveries(), [Ok((0, 0))]);
    let read = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(1).remove(0);
    assert_eq!(read.key.as_deref(), Some(b"key".as_slice()));
    assert_eq!(read.payload.as_deref(), Some(b"value \0\xfe".as_slice()));
    assert_eq!(read.timestamp_ms, Some(1_700_000_000_123));
    let expected: Vec<_> = list.iter().map(|(k, v)| ((*k).to_owned(), v.map(<[u8]>::to_vec))).collect();
    assert_eq!(read.headers, expected);
}

#[test]
fn null_and_empty_keys_and_values_are_told_apart() {
    let target = Target::start();
    let topic = target.topic(1);
    let producer = Producer::new(target.bootstrap(), &[]);
    let some = |bytes: &'static [u8]| Some(bytes);
    let sent = [(None, None), (some(b""), some(b"")), (None, some(b"v")), (some(b"k"), None)];
    for (key, payload) in sent {
        producer.queue(&topic, 0, key, payload);
    }
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let read = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(4);
    let seen: Vec<_> = read.iter().map(|r| (r.key.as_deref(), r.payload.as_deref())).collect();
    assert_eq!(seen, sent);
}

fn round_trip_with_codec(codec: &str) {
    let target = Target::start();
    let topic = target.topic(1);
    let settings = [("compression.type", codec), ("linger.ms", "20")];
    let producer = Producer::new(target.bootstrap(), &settings);
    let texts: Vec<String> = (0..500).map(|n| format!("{n} {}", "compressible ".repeat(n % 20))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(producer.send(&topic, 0, &texts), (0..500).collect::<Vec<i64>>());
    let read = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(500);
    assert!(read.iter().map(|r| r.text()).eq(texts));
}

#[test]
fn uncompressed_batches_come_back() {
    round_trip_with_codec("none");
}

#[test]
fn gzip_batches_come_back() {
    round_trip_with_codec("gzip");
}

#[test]
fn snappy_batches_come_back() {
    round_trip_with_codec("snappy");
}

#[test]
fn lz4_batches_come_back() {
    round_trip_with_codec("lz4");
}

#[test]
fn zstd_batches_come_back() {
    round_trip_with_codec("zstd");
}

#[test]
fn an_idempotent_producer_writes_every_record_once_and_in_order() {
    let target = Target::start();
    let topic = target.topic(3);
    let settings = [("enable.idempotence", "true"), ("linger.ms", "5"), ("batch.num.messages", "100")];
    let producer = Producer::new(target.bootstrap(), &settings);
    producer.fill(&topic, 3, 5000);
    let read = Group::assigned(target.bootstrap(), &topic, 3, &[]).read(15_000);
    for partition in 0..3 {
        let mine: Vec<_> = read.iter().filter(|r| r.partition == partition).collect();
        assert_eq!(mine.len(), 5000);
        for (n, record) in mine.into_iter().enumerate() {
            assert_eq!((record.offset, record.text()), (n as i64, format!("{partition}/{n}").as_str()));
        }
    }
}

#[test]
fn each_level_of_acks_is_served() {
    let target = Target::start();
    let topic = target.topic(1);
    for acks in ["0", "1", "all"] {
        let producer = Producer::new(target.bootstrap(), &[("acks", acks)]);
        producer.queue(&topic, 0, None, Some(acks.to_bytes()));
        assert!(producer.deliveries()[0].is_ok(), "acks={acks}");
    }
    let read = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(3);
    assert!(read.iter().map(|r| r.text()).eq(["0", "1", "all"]));
}

#[test]
fn large_batches_come_back_whole() {
    let target = Target::start();
    let topic = target.topic(1);
    let settings = [("batch.size", "900000"), ("linger.ms", "50")];
    let producer = Producer::new(target.bootstrap(), &settings);
    let payload = |n: usize| (0..10_000).map(|i| ((i * 31 + n * 17) % 251) as u8).collect::<Vec<u8>>();
    for n in 0..600 {
        producer.queue(&topic, 0, None, Some(&payload(n)));
    }
    assert!(producer.deliveries().iter().all(Result::is_ok));
    let read = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(600);
    for (n, record) in read.iter().enumerate() {
        assert_eq!(record.payload, Some(payload(n)), "record {n}");
    }
}

#[test]
fn a_message_just_under_the_limit_goes_in_and_one_above_is_refused() {
    let target = Target::start();
    let topic = target.topic_with(1, &[("max.message.bytes", "10000")]);
    let producer = Producer::new(target.bootstrap(), &[]);
    // One at a time: the limit is one for batches.
    let send = |payload: &[u8]| {
        producer.queue(&topic, 0, None, Some(payload));
        producer.deliveries().remove(0)
    };
    assert_eq!(send(&[b'x'; 9_800]), Ok((0, 0)));
    assert_eq!(send(&[b'x'; 10_100]), Err(RDKafkaErrorCode::MessageSizeTooLarge));
    assert_eq!(send(b"after"), Ok((0, 1)));
    let read = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(2);
    assert_eq!(read[0].payload.as_ref().unwrap().len(), 9_800);
    assert_eq!(read[1].text(), "after");
}

#[test]
fn producing_to_a_partition_that_does_not_exist_is_refused() {
    let target = Target::start();
    let topic = target.topic(2);
    let producer = Producer::new(target.bootstrap(), &[]);
    producer.queue(&topic, 1, None, Some(b"here"));
    let record = BaseRecord::to(&topic).partition(2).key(b"".as_slice()).payload(b"nowhere".as_slice());
    // Known at once or with the next metadata, depending on what the client has seen so far.
    let refused = match producer.queue_record(record) {
        Err(error) => error.rdkafka_error_code(),
        Ok(()) => producer.deliveries().into_iter().find_map(Result::err),
    };
    assert_eq!(refused, Some(RDKafkaErrorCode::UnknownPartition));
}
