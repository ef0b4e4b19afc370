//! Magnet links: what is read is the same once more, and host and port are never more than that.
#![no_main]

use swarmfs::metainfo::{HostPort, Magnet};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for text in [text.to_owned(), format!("magnet:?xt=urn:btih:d2354010a3ca4ade5b7427bb093a62a3899ff381&{text}")] {
        if let Ok(magnet) = Magnet::parse(&text) {
            assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
        }
    }
    if let Some(host) = HostPort::parse(text) {
        assert_eq!(HostPort::parse(&host.to_string()), Some(host));
    }
});
