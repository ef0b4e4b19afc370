//! Rows `utp`, `far` and `webseed`: other ways to the bytes than TCP on a near link.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::bench::{Bench, MEMORY};
use crate::clients::Who;
use crate::seeks::lab;
use crate::sequential::{against_others, whole_file};
use crate::support::foreign::UTP_ONLY;
use crate::support::lab::Lab;
use crate::support::link::{End, FAR, Far};
use crate::support::{dataset::Dataset, torrent::Torrent};
use crate::swarm::{SEED_SETTINGS, SEEDS, Swarm};

/// Bytes that are read over uTP at the most.
const OVER_UTP: u64 = 256 << 20;
/// Bytes that are read over the far link.
const OVER_FAR: u64 = 16 << 20;
/// From us to the seeds of the far link, and back.
const EACH_WAY: Duration = Duration::from_millis(25);
/// The far link loses one packet in so many.
const LOSES: u64 = 100;

/// A whole file in order from libtorrent's seeds that have nothing but uTP, against libtorrent with nothing but uTP.
pub(crate) fn utp(bench: &Bench) {
    let Some(lab) = lab(bench, "utp") else { return };
    let settings = [&SEED_SETTINGS[..], &UTP_ONLY].concat();
    let swarm = Swarm::of_libtorrent(lab, bench, bench.size.min(OVER_UTP), 0, &settings).for_libtorrent(&UTP_ONLY);
    let who = bench.clients("utp", &[Who::Ours, Who::Libtorrent], &[]);
    let table = bench.turns("utp", &who, |who| whole_file(bench, who, &swarm));
    against_others(&table);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// A whole file in order from seeds 50 ms away, over a link that loses a packet in a hundred: over TCP, then over uTP.
pub(crate) fn far(bench: &Bench) {
    if lab(bench, "far").is_none() {
        return;
    }
    let before = std::fs::File::open("/proc/thread-self/ns/net").expect("our network");
    for (row, settings) in [("far-tcp", &[][..]), ("far-utp", &UTP_ONLY[..])] {
        let near = Lab::enter();
        let dataset = Dataset::noise(OVER_FAR);
        let torrent = Torrent::of(&dataset, 256 << 10).write(bench.dir.path(), None);
        let all = [&SEED_SETTINGS[..], settings].concat();
        let far = Far::seeds(End::towards(&near, FAR), &torrent, &dataset.parent, SEEDS, &all, EACH_WAY, LOSES);
        let known: Vec<String> = far.addresses.iter().map(ToString::to_string).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        let swarm = Swarm::unseen(&dataset, torrent, far.addresses.clone(), &near).for_libtorrent(&known);
        let who = bench.clients(row, &[Who::Ours, Who::Libtorrent], &[]);
        let table = bench.turns(row, &who, |who| whole_file(bench, who, &swarm));
        against_others(&table);
        Bench::check_memory(&table, MEMORY, SEEDS);
        bench.keep(&table);
    }
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(before.as_fd(), kind).expect("our network of before");
}

/// A whole file in order from nginx alone (BEP 19), against plain downloads.
pub(crate) fn webseed(bench: &Bench) {
    if !crate::support::process::installed("nginx") {
        return println!("webseed: left out: there is no nginx");
    }
    let Some(_lab) = lab(bench, "webseed") else { return };
    let swarm = Swarm::of_nginx(bench, bench.size);
    let who = bench.clients("webseed", &[Who::Ours, Who::Libtorrent, Who::Aria2], &[]);
    let table = bench.turns("webseed", &who, |who| whole_file(bench, who, &swarm));
    against_others(&table);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}
