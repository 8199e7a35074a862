#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| procledger::fuzzing::command_line(bytes));
