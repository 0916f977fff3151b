#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_agent_protocol_fuzz::protobuf_event(bytes));
