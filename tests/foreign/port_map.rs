//! A gateway (miniupnpd) maps the port of a mount, by PCP or NAT-PMP and by UPnP alone, and has it back when the mount ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::process::{Running, shell, succeed};
use crate::support::torrent::Content;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

/// What miniupnpd writes its rules to.
const CHAINS: &str = "table inet filter {
 chain forward { type filter hook forward priority 0; policy drop; jump miniupnpd; }
 chain miniupnpd { }
 chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
 chain postrouting { type nat hook postrouting priority 100; policy accept; jump postrouting_miniupnpd; }
 chain prerouting_miniupnpd { }
 chain postrouting_miniupnpd { }
}";

/// Makes the lab's neighbour its gateway, with a public address on its other side.
fn gateway(lab: &Lab, natpmp: &str) -> Running {
    let [_, there] = lab.neighbour();
    let inside = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args);
        lab.placed(command, there)
    };
    for line in [
        "link add ext0 type veth peer name ext1",
        "link set ext1 up",
        "address add 80.1.2.3/24 dev ext0",
        "link set ext0 up",
    ] {
        succeed(&mut inside("ip", &line.split(' ').collect::<Vec<_>>()), LIMIT);
    }
    shell("ip route add default via 10.78.0.2", &[], LIMIT);
    let dir = lab.dir.path();
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a UTF-8 path").to_owned()
    };
    succeed(&mut inside("nft", &["-f", &write("chains.nft", CHAINS)]), LIMIT);
    let config = format!(
        "ext_ifname=ext0\nlistening_ip=link1\nenable_natpmp={natpmp}\nenable_upnp=yes\nsecure_mode=yes\n\
         lease_file={}\nuuid=6b0a1f3e-0c0f-4a5c-9b1e-3b1a2f1c0d0e\nallow 1024-65535 10.78.0.0/24 1024-65535\n\
         deny 0-65535 0.0.0.0/0 0-65535\n",
        dir.join("leases").display()
    );
    let (config, pid) = (write("miniupnpd.conf", &config), dir.join("miniupnpd.pid"));
    let command = inside("miniupnpd", &["-d", "-f", &config, "-P", pid.to_str().expect("a UTF-8 path")]);
    let daemon = Running::spawn("miniupnpd", command, &dir.join("miniupnpd.log"), LIMIT * 8);
    wait_until(LIMIT, "miniupnpd listens", || daemon.log().contains("HTTP listening on port"));
    daemon
}

/// What the gateway maps: protocol, port, where to.
fn leases(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("leases")).unwrap_or_default();
    let mut leases: Vec<String> =
        text.lines().map(|line| line.split(':').take(4).collect::<Vec<_>>().join(":")).collect();
    leases.sort();
    leases
}

/// A mount behind such a gateway, from its start to its end.
fn maps_and_takes_back(natpmp: &str, by: &[&str]) {
    let lab = Lab::enter();
    let daemon = gateway(&lab, natpmp);
    let file = Content::noise("noise.bin", 1 << 20, 64 << 10, 3).torrent.write(lab.dir.path(), None);
    let mut mount = mount_at(&[&file], "10.78.0.1:6881".parse().expect("an address")).start();
    let expected = ["TCP:6881:10.78.0.1:6881", "UDP:6881:10.78.0.1:6881"];
    wait_until(LIMIT, "both are mapped", || leases(lab.dir.path()) == expected);
    let mut said = String::new();
    wait_until(LIMIT, "it says so", || {
        said = mount.log();
        by.iter().any(|by| said.contains(&format!("the gateway passes the port on to us port=6881 by=\"{by}\"")))
    });
    let (status, took) = mount.terminate(Duration::from_secs(10));
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    assert_eq!(leases(lab.dir.path()), [""; 0], "{}", daemon.log());
    assert!(!said.contains("WARN"), "{said}");

    let off = mount_at(&[&file], "10.78.0.1:6881".parse().expect("an address")).args(&["--no-port-map"]).start();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(leases(lab.dir.path()), [""; 0]);
    drop(off);
}

#[test]
#[ignore = "needs root, iproute2, util-linux, nftables and miniupnpd"]
fn a_gateway_with_pcp_maps_our_port_and_takes_it_back() {
    maps_and_takes_back("yes", &["PCP", "NAT-PMP"]);
}

#[test]
#[ignore = "needs root, iproute2, util-linux, nftables and miniupnpd"]
fn a_gateway_with_upnp_alone_maps_our_port_and_takes_it_back() {
    maps_and_takes_back("no", &["UPnP"]);
}
