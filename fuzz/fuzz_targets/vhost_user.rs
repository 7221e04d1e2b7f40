#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmpath_fuzz::vhost_user::run(data));
