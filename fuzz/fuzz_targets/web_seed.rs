//! What a web server answers to a request for a range.
#![no_main]

use swarmfs::wire::{MAX_RETRY_AFTER, RangeReply};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<10>() else { return };
    let status = u16::from_be_bytes([head[0], head[1]]) % 700;
    let start = u64::from(u32::from_be_bytes([head[2], head[3], head[4], head[5]]));
    let length = start + u64::from(u32::from_be_bytes([head[6], head[7], head[8], head[9]])) + 1;
    let mut lines = rest.split(|byte| *byte == b'\n').map(|line| Some(line).filter(|line| !line.is_empty()));
    let mut next = || lines.next().flatten();
    let reply = RangeReply {
        status,
        content_range: next(),
        content_length: next(),
        content_encoding: next(),
        retry_after: next(),
        date: next(),
    };
    let _ = reply.judge(&(start..length), length);
    assert!(reply.retry_after().is_none_or(|wait| wait <= MAX_RETRY_AFTER));
});
