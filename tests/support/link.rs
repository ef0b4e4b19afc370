//! A link between two labs that takes time and loses packets: whatever the kernels send to each other goes through it, TCP
//! and uTP alike.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::foreign::LibTorrent;

use super::lab::{Lab, ip};
use super::{Random, wait_until};

/// A link reaches so many addresses of a lab.
pub(crate) const LINKED: u16 = 16;

/// One end of a link.
pub(crate) struct End(File);

impl End {
    /// An end in this thread's network, which is that of `own`, by which the addresses of the lab with the number `net` are
    /// reached. The lab's next addresses are on it, not on the loopback device: libtorrent takes only what comes by the
    /// device of its address. Needs root.
    #[track_caller]
    pub(crate) fn towards(own: &Lab, net: u8) -> Self {
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const TUN_WITHOUT_HEADER: [u8; 2] = 0x1001u16.to_ne_bytes();
        let open = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let file = open.expect("/dev/net/tun");
        let mut request = [0u8; 40];
        request[..4].copy_from_slice(b"far0");
        request[16..18].copy_from_slice(&TUN_WITHOUT_HEADER);
        // SAFETY: the kernel reads and writes an ifreq, which is 40 bytes.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(made, 0, "a device: {}", io::Error::last_os_error());
        ip(&["link", "set", "far0", "up", "mtu", "1500"]);
        ip(&["address", "flush", "dev", "lo", "to", "10.0.0.0/8"]);
        for address in own.next_addresses(LINKED) {
            ip(&["address", "add", &format!("{address}/32"), "dev", "far0"]);
        }
        ip(&["route", "add", &format!("10.{net}.0.0/16"), "dev", "far0"]);
        Self(file)
    }
}

impl End {
    /// The same end, for another link.
    pub(crate) fn again(&self) -> Self {
        Self(self.0.try_clone().expect("a descriptor"))
    }
}

/// The link; it is cut when dropped.
pub(crate) struct Link {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Hands on every packet `each_way` after it came, but for one in `loses`.
    pub(crate) fn between(a: End, b: End, each_way: Duration, loses: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::new((a.0, b.0));
        let threads = [false, true].map(|back| {
            let (ends, stop) = (Arc::clone(&ends), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (from, to) = if back { (&ends.1, &ends.0) } else { (&ends.0, &ends.1) };
                carry(from, to, &stop, each_way, loses, Random::new(1 + u64::from(back)));
            })
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The number of the lab at the far end ([`Lab::enter_as`]), whose near one is that of [`Lab::enter`].
pub(crate) const FAR: u8 = 79;
const NEAR: u8 = 77;

/// libtorrent's seeds of one torrent, in a network of their own at the other end of a link. They end when dropped.
pub(crate) struct Far {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Cut before the seeds end.
    link: Option<Link>,
    end: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Far {
    /// So many seeds behind `near`, an end towards [`FAR`]; the link is as [`Link::between`] has it.
    #[track_caller]
    pub(crate) fn seeds(
        near: End,
        torrent: &Path,
        data: &Path,
        count: usize,
        settings: &[&'static str],
        each_way: Duration,
        loses: u64,
    ) -> Self {
        let (tell, told) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        let (torrent, data, settings) = (torrent.to_owned(), data.to_owned(), settings.to_vec());
        // Their network is their thread's.
        let thread = std::thread::spawn(move || {
            let lab = Lab::enter_as(FAR);
            let end = End::towards(&lab, NEAR);
            let seed = |_| LibTorrent::seed_with(&lab, &torrent, &data, 0, &settings);
            let seeds: Vec<LibTorrent> = (0..count).map(seed).collect();
            wait_until(Duration::from_secs(60), "the seeds run", || seeds.iter().all(LibTorrent::runs));
            tell.send((seeds.iter().map(|seed| seed.address).collect(), end)).expect("who started them");
            let _ = wait.recv();
        });
        let (addresses, far) = told.recv().expect("seeds");
        let link = Link::between(near, far, each_way, loses);
        Self { addresses, link: Some(link), end: Some((done, thread)) }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.link.take());
        if let Some((done, thread)) = self.end.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}

fn carry(mut from: &File, mut to: &File, stop: &AtomicBool, each_way: Duration, loses: u64, mut random: Random) {
    const IDLE: Duration = Duration::from_millis(50);
    let (mut under_way, mut buffer) = (VecDeque::<(Instant, Vec<u8>)>::new(), vec![0; 2048]);
    while !stop.load(Ordering::SeqCst) {
        while let Ok(length) = from.read(&mut buffer) {
            if random.below(loses) > 0 {
                under_way.push_back((Instant::now() + each_way, buffer[..length].to_vec()));
            }
        }
        let now = Instant::now();
        while under_way.front().is_some_and(|packet| packet.0 <= now) {
            if let Some((_, packet)) = under_way.pop_front() {
                // A packet that the kernel does not take is lost, too.
                let _ = to.write(&packet);
            }
        }
        let wait = under_way.front().map_or(IDLE, |packet| packet.0.saturating_duration_since(now));
        let wait = libc::timespec { tv_sec: 0, tv_nsec: wait.min(IDLE).subsec_nanos().into() };
        let mut polled = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: there is one pollfd, and no signal mask.
        unsafe { libc::ppoll(&raw mut polled, 1, &raw const wait, std::ptr::null()) };
    }
}
