#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kho_fuzz::pages(data));
