//! Which addresses a tracker's URL may lead to. A torrent is a stranger's file, and a redirect is a stranger's word:
//! neither may make us send requests to services of this machine or network that are no trackers.

use std::net::IpAddr;

pub(super) use crate::node::Place;

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
