//! Replies of HTTP trackers: announces and scrapes.
#![no_main]

use swarmfs::wire::{MAX_PEERS, decode_http_reply, decode_http_scrape};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(reply) = decode_http_reply(data) {
        assert!(reply.peers.len() <= MAX_PEERS);
    }
    let hashes = [[1; 20], [2; 20]];
    if let Ok(entries) = decode_http_scrape(data, &hashes) {
        assert_eq!(entries.len(), hashes.len());
    }
});
