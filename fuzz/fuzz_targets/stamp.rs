//! No bytes make the stamp's decoder panic, and what decodes has one spelling.
#![no_main]

use homing_core::{Flags, Stamp, StampRef};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let flags = Flags::decode(bytes);
    assert_eq!(Flags::decode(flags.encode().unwrap_or("").as_bytes()), flags);
    if let Ok(stamp) = StampRef::decode(bytes) {
        let mut again = Vec::new();
        stamp.encode_into(&mut again);
        assert_eq!(again, bytes);
        assert_eq!(Stamp::decode(bytes), Ok(stamp.to_stamp()));
    }
});
