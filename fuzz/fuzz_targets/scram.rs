#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weirmq::fuzzing::scram(bytes));
