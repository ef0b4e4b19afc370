//! Which addresses a tracker's URL may lead to. A torrent is a stranger's file, and a redirect is a stranger's word:
//! neither may make us send requests to services of this machine or network that are no trackers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address lies, from the outside inwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The Internet.
    Global,
    /// The network around us.
    Private,
    /// This machine.
    Loopback,
    /// Link-local, where cloud metadata services live, and what is no host at all.
    LinkLocal,
}

impl Place {
    /// Where `ip` lies; an IPv4 address inside an IPv6 one (mapped, NAT64, 6to4) counts as itself.
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            [0 | 127, ..] => Self::Loopback,
            [169, 254, ..] | [224..=255, ..] => Self::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Self::Private,
            _ => Self::Global,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let v4 = |high: u16, low: u16| Self::of_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Self::Loopback,
            [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xFF9B, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                v4(high, low)
            }
            [0xFE80..=0xFEBF, ..] | [0xFF00..=0xFFFF, ..] => Self::LinkLocal,
            [0xFC00..=0xFDFF, ..] | [0xFEC0..=0xFEFF, ..] => Self::Private,
            _ => Self::Global,
        }
    }
}

/// Which places a request may go to, besides the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reach {
    private: bool,
    loopback: bool,
    link_local: bool,
}

impl Reach {
    /// For a URL that the torrent itself gives: anywhere, but on this machine to `/announce` only.
    pub(super) fn given(path: &str) -> Self {
        let announce = path.starts_with("/announce");
        Self { private: true, loopback: announce, link_local: announce }
    }

    /// For the UDP trackers that the torrent gives: anywhere but to what is no host's address. No path is asked for: a
    /// service that is no tracker gets 16 bytes, none of them the torrent's, and only a tracker's answer to them brings
    /// on more.
    pub(super) fn datagrams() -> Self {
        Self { private: true, loopback: true, link_local: false }
    }

    /// For a redirect of a host at `from`: outwards or sideways, never inwards.
    pub(super) fn redirected(from: Place, path: &str) -> Self {
        Self {
            private: from >= Place::Private,
            loopback: from == Place::Loopback && path.starts_with("/announce"),
            link_local: false,
        }
    }

    /// True if a request may go to `ip`.
    pub(super) fn admits(self, ip: IpAddr) -> bool {
        match Place::of(ip) {
            Place::Global => true,
            Place::Private => self.private,
            Place::Loopback => self.loopback,
            Place::LinkLocal => self.link_local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(ip: &str) -> Place {
        Place::of(ip.parse().expect("an address"))
    }

    #[test]
    fn addresses_lie_where_they_lead() {
        for ip in [
            "8.8.8.8",
            "172.32.0.1",
            "100.63.0.1",
            "192.169.0.1",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert_eq!(place(ip), Place::Global, "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert_eq!(place(ip), Place::Private, "{ip}");
        }
        for ip in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "2002:7f00:1::"]
        {
            assert_eq!(place(ip), Place::Loopback, "{ip}");
        }
        for ip in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert_eq!(place(ip), Place::LinkLocal, "{ip}");
        }
    }

    #[test]
    fn a_torrent_reaches_this_machine_at_announce_only() {
        let admits = |path: &str, ip: &str| Reach::given(path).admits(ip.parse().expect("an address"));
        for ip in ["127.0.0.1", "::1", "169.254.1.1", "::ffff:127.0.0.1"] {
            assert!(admits("/announce", ip) && admits("/announce.php", ip), "{ip}");
            assert!(!admits("/shutdown", ip) && !admits("/x/announce", ip) && !admits("/", ip), "{ip}");
        }
        assert!(admits("/tracker", "192.168.1.1") && admits("/tracker", "8.8.8.8"));
    }

    #[test]
    fn datagrams_reach_hosts_only() {
        let admits = |ip: &str| Reach::datagrams().admits(ip.parse().expect("an address"));
        assert!(admits("127.0.0.1") && admits("::1") && admits("192.168.1.1") && admits("8.8.8.8"));
        for ip in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert!(!admits(ip), "{ip}");
        }
    }

    #[test]
    fn a_redirect_never_leads_inwards() {
        let admits =
            |from: Place, path: &str, ip: &str| Reach::redirected(from, path).admits(ip.parse().expect("an address"));
        for from in [Place::Global, Place::Private, Place::Loopback, Place::LinkLocal] {
            assert!(admits(from, "/announce", "8.8.8.8"));
            assert!(
                !admits(from, "/announce", "169.254.169.254") && !admits(from, "/announce", "::ffff:169.254.169.254")
            );
        }
        assert!(!admits(Place::Global, "/announce", "127.0.0.1") && !admits(Place::Global, "/announce", "10.0.0.1"));
        assert!(!admits(Place::Private, "/announce", "127.0.0.1") && admits(Place::Private, "/x", "10.0.0.1"));
        assert!(admits(Place::Loopback, "/announce", "127.0.0.1") && !admits(Place::Loopback, "/x", "127.0.0.1"));
    }
}
