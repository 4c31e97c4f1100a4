//! No stored bytes make the continuity state's decoder panic, and what decodes can be used.
#![no_main]

use homing_core::gap::Limits;
use homing_core::{Flags, LaneDetector, Offset, PartitionDetector, PayloadCrc, Seen, Seq};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for kind in [b"HGAP\x01L", b"HGAP\x01P"] {
        let mut sealed = [kind, bytes].concat();
        sealed.extend(crc32c::crc32c(&sealed).to_be_bytes());
        if let Ok(partition) = PartitionDetector::decode(&sealed, Limits::default()) {
            assert_eq!(PartitionDetector::decode(&partition.encode(), Limits::default()), Ok(partition));
        }
        if let Ok(mut lane) = LaneDetector::decode(&sealed, Limits { gaps_max: 4, ..Limits::default() }) {
            use_it(&mut lane, bytes);
        }
    }
});

fn use_it(lane: &mut LaneDetector, bytes: &[u8]) {
    let (crc, flags, mut out) = (PayloadCrc(0), Flags::default(), Vec::new());
    for (at, byte) in bytes.iter().enumerate() {
        let seq = lane.highest().map_or(1, |seq| seq.0).saturating_add_signed(i64::from(*byte) - 128);
        match at % 4 {
            0 => lane.voided(Seq(seq), &mut out),
            1 => lane.expected_through(Seq(seq), 0),
            2 => drop(lane.confirm(i64::from(*byte), 9)),
            _ => {
                let offset = Offset(at as i64);
                lane.observe(&Seen { seq: Seq(seq), id: None, crc, data_crc: crc, offset, flags, at_ms: 0 }, &mut out);
            }
        }
        assert!(lane.open_gaps().all(|gap| gap.from <= gap.to));
        assert!(lane.watermark() <= lane.highest());
        out.clear();
    }
}
