//! Rows `utp`, `far` and `webseed`: other ways to the bytes than TCP on a near link.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bench::{Bench, MEMORY};
use crate::clients::Who;
use crate::seeks::lab;
use crate::sequential::{against, whole_file};
use crate::support::foreign::{LibTorrent, UTP_ONLY};
use crate::support::lab::Lab;
use crate::support::link::{End, Link};
use crate::support::wait_until;
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
    against(&table, Who::Libtorrent.name());
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
        let far = Far::start(&near, bench, settings);
        let who = bench.clients(row, &[Who::Ours, Who::Libtorrent], &[]);
        let table = bench.turns(row, &who, |who| whole_file(bench, who, &far.swarm));
        against(&table, Who::Libtorrent.name());
        Bench::check_memory(&table, MEMORY, SEEDS);
        bench.keep(&table);
    }
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(before.as_fd(), kind).expect("our network of before");
}

/// Seeds in another network, at the other end of a poor link.
struct Far {
    swarm: Swarm,
    /// Cut before the seeds are ended.
    _link: Link,
    end: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Far {
    fn start(near: &Lab, bench: &Bench, settings: &'static [&'static str]) -> Self {
        let dataset = Dataset::noise(OVER_FAR);
        let torrent = Torrent::of(&dataset, 256 << 10);
        let file = torrent.write(bench.dir.path(), None);
        let end = End::towards(near, 79);
        let (tell, told) = mpsc::channel::<(Vec<SocketAddr>, End)>();
        let (done, wait) = mpsc::channel::<()>();
        let (seed_file, parent) = (file.clone(), dataset.parent.clone());
        // Their network is their thread's.
        let thread = std::thread::spawn(move || {
            let lab = Lab::enter_as(79);
            let end = End::towards(&lab, 77);
            let all = [&SEED_SETTINGS[..], settings].concat();
            let seeds: Vec<LibTorrent> =
                (0..SEEDS).map(|_| LibTorrent::seed_with(&lab, &seed_file, &parent, 0, &all)).collect();
            wait_until(Duration::from_secs(30), "the seeds run", || seeds.iter().all(LibTorrent::runs));
            tell.send((seeds.iter().map(|seed| seed.address).collect(), end)).expect("the bench");
            let _ = wait.recv();
        });
        let (peers, far) = told.recv().expect("seeds");
        let link = Link::between(end, far, EACH_WAY, LOSES);
        let known: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        let swarm = Swarm::unseen(&dataset, file, peers, near).for_libtorrent(&known);
        Self { swarm, _link: link, end: Some((done, thread)) }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.end.take() {
            drop(done);
            let _ = thread.join();
        }
    }
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
    for who in table.who().into_iter().filter(|who| *who != Who::Ours.name()) {
        against(&table, who);
    }
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}
