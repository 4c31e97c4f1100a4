//! Bodies that are sound in every compression, bodies that lie, and bodies of anything.

use super::super::batch::tests::{batch, batch_of, record};
use super::*;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::io::Write;

const NOBODY: (i64, i16, i32) = (-1, -1, -1);
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(24), ..ProptestConfig::with_cases(cases) }
}

/// What a client's library would send.
fn encoded(sizes: &[usize], compression: Compression) -> Vec<u8> {
    let records: Vec<Record> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| Record {
            transactional: false,
            control: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: n as i64,
            sequence: (n as i32).wrapping_sub(1),
            timestamp: 1_000 + n as i64,
            key: (n % 2 == 0).then(|| bytes::Bytes::from(vec![n as u8; n % 7])),
            value: (n % 3 != 0).then(|| bytes::Bytes::from(vec![n as u8; *size])),
            headers: (n % 4 == 0)
                .then(|| ("h".to_owned().into(), Some(bytes::Bytes::from_static(b"v"))))
                .into_iter()
                .collect(),
            delete_horizon: false,
        })
        .collect();
    let mut out = bytes::BytesMut::new();
    RecordBatchEncoder::encode(&mut out, &records, &RecordEncodeOptions { version: 2, compression }).unwrap();
    out.to_vec()
}

fn looked_at(batch: &[u8]) -> Result<Times, BodyError> {
    check(batch, &BatchHeader::parse(batch).unwrap())
}

/// A batch of one codec around a body, with a right checksum.
fn packed(records: i32, codec: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = batch_of(records, NOBODY, body);
    bytes[22] = codec;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn gzip(unpacked: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(unpacked).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_header_alone_that_claims_two_thousand_million_records_is_refused() {
    for (codec, body) in [(0, Vec::new()), (1, gzip(b"")), (1, Vec::new()), (2, Vec::new()), (4, Vec::new())]
    {
        assert!(looked_at(&packed(i32::MAX, codec, &body)).is_err(), "codec {codec}");
    }
}

#[test]
fn records_that_are_not_what_the_batch_says_are_refused() {
    let sound = [record(0, 5, b"a"), record(1, 5, b"b")].concat();
    assert_eq!(looked_at(&batch_of(2, NOBODY, &sound)).unwrap(), Times { earliest: 1_005, latest: 1_005 });
    let refused = |records: i32, body: &[u8]| {
        for packed in [packed(records, 0, body), packed(records, 1, &gzip(body))] {
            assert!(looked_at(&packed).is_err(), "{records} of {body:?}");
        }
    };
    refused(1, &sound);
    refused(3, &sound);
    refused(2, &sound[..sound.len() - 1]);
    refused(2, &[&sound[..], &[0]].concat());
    refused(2, &[record(0, 5, b"a"), record(2, 5, b"b")].concat());
    refused(2, &[record(1, 5, b"a"), record(0, 5, b"b")].concat());
    let mut longer = sound.clone();
    longer[0] += 2;
    refused(2, &longer);
    // A record of length 7 whose headers claim to be two thousand million.
    refused(1, &[22, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0]);
    refused(1, &[0xff; 40]);
}

#[test]
fn a_value_as_long_as_all_memory_is_never_made_room_for() {
    // Length 2^31-1 in the record and in its value, with nothing behind.
    let claims = [0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
    assert!(looked_at(&packed(1, 0, &claims)).is_err());
    assert!(looked_at(&packed(1, 1, &gzip(&claims))).is_err());
    // A raw snappy block that claims 2^32-1 bytes.
    assert!(looked_at(&packed(1, 2, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0])).is_err());
}

#[test]
fn snappy_is_read_raw_and_in_the_framing_of_java() {
    let body = [record(0, 5, &[7; 1000]), record(1, 9, b"b")].concat();
    let raw = snap::raw::Encoder::new().compress_vec(&body).unwrap();
    assert_eq!(looked_at(&packed(2, 2, &raw)).unwrap(), Times { earliest: 1_005, latest: 1_009 });
    let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for part in body.chunks(300) {
        let block = snap::raw::Encoder::new().compress_vec(part).unwrap();
        framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        framed.extend_from_slice(&block);
    }
    assert_eq!(looked_at(&packed(2, 2, &framed)).unwrap(), Times { earliest: 1_005, latest: 1_009 });
}

#[test]
fn the_first_record_of_a_time_is_found_in_every_compression() {
    for codec in CODECS {
        let batch = encoded(&[3; 20], codec);
        let header = BatchHeader::parse(&batch).unwrap();
        let found = find(&batch, &header, |record| record.timestamp >= 1_013).unwrap();
        assert_eq!(found, Some(Seen { offset_delta: 13, timestamp: 1_013 }), "{codec:?}");
        assert_eq!(find(&batch, &header, |record| record.timestamp >= 1_020).unwrap(), None);
    }
}

proptest! {
    #![proptest_config(seeded(200))]

    #[test]
    fn what_clients_send_is_taken(
        sizes in proptest::collection::vec(0_usize..5_000, 1..40),
        codec in 0..CODECS.len(),
    ) {
        let batch = encoded(&sizes, CODECS[codec]);
        let latest = 1_000 + sizes.len() as i64 - 1;
        prop_assert_eq!(looked_at(&batch).unwrap(), Times { earliest: 1_000, latest });
    }

    #[test]
    fn what_is_taken_can_be_decoded_by_a_client_and_nothing_panics(
        sizes in proptest::collection::vec(0_usize..60, 1..8),
        codec in 0..CODECS.len(),
        changes in proptest::collection::vec((0_usize..1 << 16, any::<u8>()), 1..4),
        records in proptest::option::of(-3..12_i32),
    ) {
        let mut batch = encoded(&sizes, CODECS[codec]);
        let body = batch.len() - HEADER_BYTES;
        for (at, to) in changes {
            batch[HEADER_BYTES + at % body] = to;
        }
        if let Some(records) = records {
            batch[57..61].copy_from_slice(&records.to_be_bytes());
        }
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let header = BatchHeader::parse(&batch).unwrap();
        if header.records > 0 && looked_at(&batch).is_ok() {
            let decoded = RecordBatchDecoder::decode(&mut bytes::Bytes::from(batch));
            // A header's name may have become other than UTF-8, which Kafka does not look at either.
            if let Ok(decoded) = decoded {
                prop_assert_eq!(decoded.records.len() as i32, header.records);
                let offsets = decoded.records.iter().map(|record| record.offset);
                prop_assert!(offsets.eq(0..i64::from(header.records)));
            }
        }
    }

    #[test]
    fn any_body_is_refused_or_taken_without_panic(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        codec in 0..8_u8,
        records in 1..5_i32,
    ) {
        let _ = looked_at(&packed(records, codec, &body));
    }
}

#[test]
fn the_test_helper_makes_sound_batches() {
    assert_eq!(looked_at(&batch(3, NOBODY, b"abc")).unwrap(), Times { earliest: 2_000, latest: 2_000 });
}
