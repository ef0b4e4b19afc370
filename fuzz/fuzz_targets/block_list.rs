//! Block lists, in all of their formats.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use swarmfs::node::Blocks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (blocks, wrong) = Blocks::parse(data);
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(wrong <= lines && blocks.len() <= lines && (blocks.is_empty() == (blocks.len() == 0)));
    for ip in [Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::BROADCAST] {
        assert_eq!(blocks.contain(ip.into()), blocks.contain(IpAddr::V6(ip.to_ipv6_mapped())));
    }
    let _ = blocks.contain(Ipv6Addr::LOCALHOST.into());
});
