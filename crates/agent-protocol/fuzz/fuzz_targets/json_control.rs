#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_agent_protocol_fuzz::json_control(bytes));
