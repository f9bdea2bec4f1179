//! Whatever a key server answers is a key set or an error, in bounded time and memory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::token::jwks::{KEYS_MAX, KeySet};

fuzz_target!(|document: &[u8]| {
    match KeySet::parse(document) {
        Ok(keys) => assert!((1..=KEYS_MAX).contains(&keys.len())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
