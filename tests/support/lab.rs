//! A network of a test's own, for programs that would not talk on 127.x or must not leave it: a network namespace whose
//! loopback device holds 10.77.0.0/16, or addresses of 2001:db8:77::/64 instead. Transmission dials no 127.x address and
//! takes no unique local one for IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Running, shell, succeed};
use super::wait_until;

/// Longer than any whole test here takes: half an hour of churn.
const LIFE: Duration = Duration::from_secs(2400);

/// A network of the test's own; it ends with the thread and the processes in it.
pub(crate) struct Lab {
    next: std::cell::Cell<u16>,
    net: u8,
    pub(super) v6: bool,
    neighbour: std::cell::OnceCell<Running>,
    world: std::cell::OnceCell<Running>,
    pub(crate) dir: tempfile::TempDir,
}

impl Lab {
    /// Moves this thread, and what it starts from now on, into a new network. Needs root.
    #[track_caller]
    pub(crate) fn enter() -> Self {
        Self::enter_as(77)
    }

    /// As `enter`, with the addresses 10.`net`.0.0/16.
    #[track_caller]
    pub(crate) fn enter_as(net: u8) -> Self {
        // SAFETY: only the network namespace changes, which no memory depends on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("a network namespace of our own: this test needs root");
        ip(&["link", "set", "lo", "up"]);
        ip(&["address", "add", &format!("10.{net}.0.1/16"), "dev", "lo"]);
        let dir = tempfile::Builder::new().prefix("swarmfs-lab-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("a directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
        Self {
            next: std::cell::Cell::new(2),
            net,
            v6: false,
            neighbour: std::cell::OnceCell::new(),
            world: std::cell::OnceCell::new(),
            dir,
        }
    }

    /// As `enter`, with addresses of IPv6 for everybody. Those of IPv4 are there for what controls the programs.
    #[track_caller]
    pub(crate) fn enter_v6() -> Self {
        let lab = Self { v6: true, ..Self::enter() };
        // Transmission has IPv6 if there is a way to the world.
        ip(&["-6", "route", "add", "default", "dev", "lo"]);
        lab
    }

    /// An address that nobody else in the lab has.
    pub(crate) fn address(&self) -> SocketAddr {
        let number = self.next.replace(self.next.get() + 1);
        if self.v6 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, number);
            ip(&["address", "add", &format!("{address}/128"), "dev", "lo", "nodad"]);
            return SocketAddr::from((address, 6880 + number));
        }
        let [high, low] = number.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(10, self.net, high, low), 6881))
    }

    /// The IP addresses that `address` gives next.
    pub(crate) fn next_addresses(&self, count: u16) -> impl Iterator<Item = Ipv4Addr> {
        let (net, next) = (self.net, self.next.get());
        (next..next + count).map(move |number| {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(10, net, high, low)
        })
    }

    /// The IPv4 address at which the program with this address is controlled: not all of them can be over IPv6.
    pub(super) fn control(address: SocketAddr) -> Ipv4Addr {
        match address.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(ip) => {
                let [.., high, low] = ip.octets();
                Ipv4Addr::new(10, 77, high, low)
            }
        }
    }

    /// Another network, one link away: this one has 10.78.0.1 and fe80::1 on it, that one 10.78.0.2 and fe80::2. It ends with
    /// the lab.
    #[track_caller]
    pub(crate) fn neighbour(&self) -> [SocketAddr; 2] {
        let holder = self.beyond("link0", "link1", "10.78.0");
        assert!(self.neighbour.set(holder).is_ok(), "there is one neighbour");
        ["10.78.0.1:6881", "10.78.0.2:6881"].map(|address| address.parse().expect("an address"))
    }

    /// A third network on `link2`, 10.79.0.2, where everything goes that is meant for nobody here.
    #[track_caller]
    pub(crate) fn world(&self) -> SocketAddr {
        let holder = self.beyond("link2", "link3", "10.79.0");
        assert!(self.world.set(holder).is_ok(), "there is one world");
        ip(&["route", "add", "default", "via", "10.79.0.2"]);
        ip(&["-6", "route", "add", "default", "via", "fe80::2", "dev", "link2"]);
        SocketAddr::from(([10, 79, 0, 2], 6881))
    }

    /// A network at the other end of a link.
    #[track_caller]
    fn beyond(&self, here: &str, there: &str, net: &str) -> Running {
        let mut sleep = Command::new("unshare");
        sleep.args(["-n", "sleep", "900"]);
        let holder = Running::spawn("another network", sleep, &self.log(there), LIFE);
        let pid = holder.pid().to_string();
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("our network");
        wait_until(Duration::from_secs(5), "it has a network", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs != own)
        });
        Self::link(&holder, here, there, net);
        holder
    }

    /// The link to the neighbour goes and comes again, as one of a VPN does.
    #[track_caller]
    pub(crate) fn relink(&self) {
        ip(&["link", "delete", "link0"]);
        Self::link(self.neighbour.get().expect("a neighbour"), "link0", "link1", "10.78.0");
    }

    #[track_caller]
    fn link(holder: &Running, here: &str, there: &str, net: &str) {
        let pid = holder.pid().to_string();
        ip(&["link", "add", here, "type", "veth", "peer", "name", there, "netns", &pid]);
        let inside = |args: &[&str]| {
            let mut command = Command::new("nsenter");
            succeed(command.args(["-t", &pid, "-n", "ip"]).args(args), Duration::from_secs(5));
        };
        ip(&["address", "add", &format!("{net}.1/24"), "dev", here]);
        ip(&["-6", "address", "add", "fe80::1/64", "dev", here, "nodad"]);
        ip(&["link", "set", here, "up"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["address", "add", &format!("{net}.2/24"), "dev", there]);
        inside(&["-6", "address", "add", "fe80::2/64", "dev", there, "nodad"]);
        inside(&["link", "set", there, "up"]);
    }

    /// What a thread in the neighbour's network does.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let pid = self.neighbour.get().expect("a neighbour").pid();
        let net = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("its network");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&net), kind)
                    .expect("in its network");
                act()
            });
            thread.join().expect("it does not panic")
        })
    }

    /// Has this file in place of that one from now on, for this thread and what it starts.
    #[track_caller]
    pub(crate) fn replace(&self, path: &str, text: &str) {
        // SAFETY: only the mount namespace changes, which no memory depends on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("mounts of our own");
        let ours = self.dir.path().join(path.replace('/', "-"));
        std::fs::write(&ours, text).expect("a file");
        std::fs::set_permissions(&ours, PermissionsExt::from_mode(0o644)).expect("its mode");
        shell("mount --make-rprivate / && mount --bind \"$1\" \"$2\"", &[&ours, Path::new(path)], LIFE);
    }

    /// The command, in the network that has this address.
    pub(crate) fn placed(&self, command: Command, address: SocketAddr) -> Command {
        let Some(neighbour) = self.neighbour.get().filter(|_| address.ip() == IpAddr::from([10, 78, 0, 2])) else {
            return command;
        };
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &neighbour.pid().to_string(), "-n", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// A new directory.
    pub(crate) fn subdir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        path
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }
}

#[track_caller]
pub(super) fn ip(args: &[&str]) {
    succeed(Command::new("ip").args(args), Duration::from_secs(5));
}
