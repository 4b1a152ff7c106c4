#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ganger_fuzz::record(bytes));
