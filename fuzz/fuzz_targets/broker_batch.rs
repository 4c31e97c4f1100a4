//! A producer's batch of any bytes: refused or taken, never a panic, never more memory than a window.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| homing_broker::look_into_batch(data));
