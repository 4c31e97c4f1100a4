//! Every vector of docs/wire-format.md against the code, so that the two cannot part.

#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_core::{Flags, PartitionCount, PayloadCrc, Stamp, StampRef, header, murmur2, partition_for_key};

const DOCUMENT: &str = include_str!("../../../docs/wire-format.md");

/// The rows of the table under a heading, each as its cells; cells are between `| ` and ` |`.
fn rows<const CELLS: usize>(heading: &str) -> Vec<[&'static str; CELLS]> {
    let (_, section) = DOCUMENT.split_once(&format!("\n### Vectors: {heading}\n")).unwrap();
    let table =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = table
        .skip(2)
        .map(|line| {
            let cells: Vec<_> = line.trim_start_matches("| ").trim_end_matches(" |").split(" | ").collect();
            <[&str; CELLS]>::try_from(cells).unwrap_or_else(|cells| panic!("{line}: {cells:?}"))
        })
        .collect();
    assert!(rows.len() >= 6, "the table of {heading} has shrunk to {} rows", rows.len());
    rows
}

/// What stands between the backticks.
fn literal(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).unwrap_or_else(|| panic!("{cell}"))
}

fn bytes(cell: &str) -> Option<Vec<u8>> {
    let text = literal(cell);
    match text.strip_prefix("hex:") {
        _ if text == "null" => None,
        None => Some(text.as_bytes().to_vec()),
        Some(hex) => {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            Some((0..hex.len()).step_by(2).map(byte).collect())
        }
    }
}

#[test]
fn each_stamp_is_read_and_written_as_the_page_says() {
    for [text, stream, epoch, partition, seq, crc] in rows("stamps") {
        let stamp = StampRef::decode(literal(text).as_bytes()).unwrap();
        assert_eq!(stamp.stream, literal(stream));
        assert_eq!(stamp.epoch.to_string(), epoch);
        assert_eq!(stamp.partition.to_string(), partition);
        assert_eq!(stamp.seq.to_string(), seq);
        assert_eq!(stamp.crc.to_string(), literal(crc));
        let mut written = Vec::new();
        stamp.encode_into(&mut written);
        assert_eq!(written, literal(text).as_bytes());
    }
    assert!(DOCUMENT.contains(&format!("longest\nstamp has {} bytes", Stamp::LEN_MAX)));
}

#[test]
fn each_thing_that_is_no_stamp_is_refused_for_the_part_the_page_says() {
    for [text, part, why] in rows("what is no stamp") {
        let error = StampRef::decode(literal(text).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{text} is wrong in its {part} ({why}), not: {error}");
    }
}

#[test]
fn each_checksum_is_as_the_page_says() {
    for [key, payload, crc] in rows("checksums") {
        let computed = PayloadCrc::of(bytes(key).as_deref(), bytes(payload).as_deref());
        assert_eq!(computed.to_string(), literal(crc), "{key} {payload}");
    }
}

#[test]
fn each_key_goes_to_the_partition_the_page_says() {
    for [key, hash, partitions, partition] in rows("partitions") {
        let (key, count) = (bytes(key).unwrap(), PartitionCount::new(partitions.parse().unwrap()).unwrap());
        assert_eq!((murmur2(&key) as i32).to_string(), hash);
        assert_eq!(partition_for_key(&key, count).to_string(), partition);
    }
}

#[test]
fn each_list_of_flags_is_read_as_the_page_says() {
    for [value, replay, redrive] in rows("flags") {
        let flags = Flags::decode(literal(value).as_bytes());
        let said = |flag: bool| if flag { "yes" } else { "no" };
        assert_eq!((said(flags.replay), said(flags.redrive)), (replay, redrive), "{value}");
    }
}

#[test]
fn the_page_names_the_headers_the_code_writes() {
    for name in [header::STAMP, header::ID, header::FLAGS] {
        assert!(DOCUMENT.contains(&format!("| `{name}` |")), "{name}");
        assert!(name.starts_with(header::RESERVED_PREFIX));
    }
}
