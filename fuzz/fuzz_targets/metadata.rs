//! Metadata messages (BEP 9), and the search for metadata among peers that say anything at all.
#![no_main]

use std::time::{Duration, Instant};

use swarmfs::metainfo::{InfoHash, TorrentId};
use swarmfs::swarm::{MetadataEffect, MetadataFetch, PeerKey};
use swarmfs::wire::{ExtendedHandshake, MetadataMessage};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(message) = MetadataMessage::decode(data)
        && message != MetadataMessage::Unknown
    {
        assert_eq!(MetadataMessage::decode(&message.encode()), Ok(message));
    }
    let truth = b"de";
    let mut search = MetadataFetch::new(TorrentId { v1: Some(InfoHash::of(truth)), v2: None }, 1);
    let mut now = Instant::now();
    let mut done = false;
    for step in data.chunks_exact(4) {
        let (peer, value) = (PeerKey(u64::from(step[1] % 5)), u32::from(step[2]) << (step[3] % 17));
        match step[0] % 6 {
            0 => {
                let (metadata_id, metadata_size) = (Some(1), Some(u64::from(value).clamp(1, 1 << 24)));
                let hello = ExtendedHandshake { metadata_id, metadata_size, ..ExtendedHandshake::default() };
                search.extended(now, peer, &hello);
            }
            1 => {
                let data = if value % 2 == 0 { &truth[..] } else { &step[..2] };
                search.message(now, peer, &MetadataMessage::Data { piece: value % 3, total: None, data });
            }
            2 => search.message(now, peer, &MetadataMessage::Reject(value % 3)),
            3 => search.disconnected(now, peer),
            4 => search.message(now, peer, &MetadataMessage::Request(value)),
            _ => {
                now += Duration::from_millis(u64::from(value));
                search.timeout(now);
            }
        }
        while let Some(effect) = search.poll() {
            if let MetadataEffect::Done(bytes) = effect {
                assert!(!std::mem::replace(&mut done, true) && bytes == truth);
            }
        }
    }
});
