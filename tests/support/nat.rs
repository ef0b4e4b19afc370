//! Hosts behind NATs: each has a network of its own and a router with a network of its own, which lets in what answers what
//! has gone out from the same port to the same address, and drops everything else without a word.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::lab::{Lab, ip};
use super::process::{Running, succeed};
use super::wait_until;

const LIMIT: Duration = Duration::from_secs(10);

const RULES: &str = "table ip nat {
 chain postrouting { type nat hook postrouting priority 100; policy accept; oifname \"wan\" masquerade; }
}
table ip filter {
 chain input { type filter hook input priority 0; policy drop; }
 chain forward {
  type filter hook forward priority 0; policy drop;
  iifname \"lan\" accept
  ct state established,related accept
 }
}";

/// One host with its router. Both networks end with it.
pub(crate) struct Nat {
    host: Running,
    router: Running,
    /// Where the host listens, in its own network.
    pub(crate) inside: SocketAddr,
    /// How everybody else sees that.
    pub(crate) outside: SocketAddr,
}

/// A network that is there as long as the process.
fn network(lab: &Lab, name: &str) -> Running {
    let mut sleep = Command::new("unshare");
    sleep.args(["-n", "sleep", "900"]);
    let holder = Running::spawn(name, sleep, &lab.log(name), Duration::from_secs(900));
    let own = std::fs::read_link("/proc/thread-self/ns/net").expect("our network");
    wait_until(LIMIT, "it has a network", || {
        std::fs::read_link(format!("/proc/{}/ns/net", holder.pid())).is_ok_and(|theirs| theirs != own)
    });
    holder
}

/// The command, in the network of this process.
fn inside(network: &Running, command: &Command) -> Command {
    let mut inside = Command::new("nsenter");
    inside.args(["-t", &network.pid().to_string(), "-n", "--"]);
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
}

fn run(network: &Running, line: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", line]);
    succeed(&mut inside(network, &command), LIMIT);
}

impl Nat {
    /// Two hosts: their routers are 80.1.0.2 and 80.1.0.3 on a network on which the lab is 80.1.0.1.
    #[track_caller]
    pub(crate) fn two(lab: &Lab) -> [Self; 2] {
        ip(&["link", "add", "public", "type", "bridge"]);
        ip(&["address", "add", "80.1.0.1/24", "dev", "public"]);
        ip(&["link", "set", "public", "up"]);
        [2, 3].map(|n| Self::of(lab, n))
    }

    fn of(lab: &Lab, n: u8) -> Self {
        let (router, host) = (network(lab, &format!("router{n}")), network(lab, &format!("host{n}")));
        let (public, rules) = (format!("public{n}"), lab.dir.path().join("nat.nft"));
        ip(&["link", "add", &public, "type", "veth", "peer", "name", "wan", "netns", &router.pid().to_string()]);
        ip(&["link", "set", &public, "master", "public", "up"]);
        std::fs::write(&rules, RULES).expect("the rules");
        run(
            &router,
            &format!(
                "ip link add lan type veth peer name eth0 netns {}
                 ip address add 80.1.0.{n}/24 dev wan; ip link set wan up
                 ip address add 192.168.{n}.1/24 dev lan; ip link set lan up
                 nft -f {}
                 echo 1 > /proc/sys/net/ipv4/ip_forward",
                host.pid(),
                rules.display()
            ),
        );
        run(
            &host,
            &format!(
                "ip link set lo up; ip address add 192.168.{n}.2/24 dev eth0; ip link set eth0 up
                 ip route add default via 192.168.{n}.1"
            ),
        );
        let [inside, outside] = [[192, 168, n, 2], [80, 1, 0, n]].map(|ip| SocketAddr::from((ip, 6881)));
        Self { host, router, inside, outside }
    }

    /// Nothing goes from the host to this one, until `unwall`.
    pub(crate) fn wall(&self, from: &Self) {
        let chain = "add chain ip wall forward { type filter hook forward priority -10; policy accept; }";
        let rule = format!("add rule ip wall forward ip daddr {} drop", from.outside.ip());
        run(&self.router, &format!("nft 'add table ip wall; {chain}; {rule}'"));
    }

    pub(crate) fn unwall(&self) {
        run(&self.router, "nft delete table ip wall");
    }

    /// The command, on the host.
    pub(crate) fn placed(&self, command: &Command) -> Command {
        inside(&self.host, command)
    }
}
