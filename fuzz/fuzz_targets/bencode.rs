//! Our own check of bencode: within its limits it ends, and what passes can be walked.
#![no_main]

use swarmfs::metainfo::bencode::{Limits, check, span_of};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for limits in [Limits::METAINFO, Limits::WIRE] {
        if let Ok(length) = check(data, limits) {
            assert!(length <= data.len());
            let _ = span_of(data, b"info");
        }
    }
});
