//! Our own address as others see it (BEP 24, BEP 10 `yourip`, BEP 42): many say it, some wrongly, so it is what most of
//! those say who were heard last.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::address::network;
use super::place::Place;
use crate::swarm::TorrentKey;

/// Who says it. Each has one voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A peer, by its address.
    Peer(IpAddr),
    /// The trackers of a torrent.
    Tracker(TorrentKey),
    /// Most nodes of the DHT.
    Dht,
    /// The gateway that has mapped our port: the address is its own.
    Gateway,
}

impl Witness {
    /// How many others it weighs as much as.
    fn weight(self) -> usize {
        match self {
            Self::Peer(_) | Self::Tracker(_) => 1,
            Self::Dht => 3,
            Self::Gateway => 10,
        }
    }
}

/// Witnesses that are heard at one time, the last ones: our address changes, and who has seen the old one goes.
const MAX_WITNESSES: usize = 30;
/// The least weight that is believed: one alone may be anybody.
const LEAST: usize = 2;

/// What was said.
#[derive(Clone, Debug, Default)]
pub(super) struct External {
    said: VecDeque<(Witness, IpAddr)>,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl External {
    /// Our address of a family.
    pub(super) fn of_family(&self, v4: bool) -> Option<IpAddr> {
        if v4 { self.v4 } else { self.v6 }
    }

    /// Somebody says where he sees us. True if that changes what we believe. Only addresses of the Internet count.
    pub(super) fn seen(&mut self, by: Witness, ours: IpAddr) -> bool {
        let ours = ours.to_canonical();
        let by = match by {
            Witness::Peer(ip) => Witness::Peer(network(ip.to_canonical())),
            other => other,
        };
        if Place::of(ours) != Place::Global {
            return false;
        }
        self.said.retain(|(witness, said)| *witness != by || said.is_ipv4() != ours.is_ipv4());
        if self.said.len() >= MAX_WITNESSES {
            self.said.pop_front();
        }
        self.said.push_back((by, ours));
        let believed = if ours.is_ipv4() { self.v4 } else { self.v6 };
        let weight =
            |ip: IpAddr| self.said.iter().filter(|(_, said)| *said == ip).map(|(by, _)| by.weight()).sum::<usize>();
        let stands = weight(ours) >= LEAST && believed.is_none_or(|old| old != ours && weight(ours) > weight(old));
        if stands {
            *if ours.is_ipv4() { &mut self.v4 } else { &mut self.v6 } = Some(ours);
        }
        stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn peer(n: u8) -> Witness {
        Witness::Peer(IpAddr::from([198, 51, 100, n]))
    }

    #[test]
    fn it_is_what_most_say_and_nobody_says_it_alone() {
        let mut external = External::default();
        assert!(!external.seen(peer(1), ip("203.0.113.1")) && !external.seen(peer(1), ip("203.0.113.1")));
        assert!(external.seen(Witness::Tracker(TorrentKey(1)), ip("::ffff:203.0.113.1")));
        assert_eq!((external.of_family(true), external.of_family(false)), (Some(ip("203.0.113.1")), None));
        assert!(!external.seen(peer(3), ip("203.0.113.9")) && !external.seen(peer(4), ip("203.0.113.9")));
        assert!(external.seen(peer(1), ip("203.0.113.9")), "one of them has changed his mind");
        for local in ["10.0.0.1", "127.0.0.1", "fe80::1", "0.0.0.0"] {
            assert!(!external.seen(Witness::Gateway, ip(local)), "{local}");
        }
        assert!(external.seen(Witness::Dht, ip("2001:db8::1")));
        assert!(external.seen(Witness::Gateway, ip("203.0.113.77")), "it has the address itself");
    }

    #[test]
    fn an_address_that_has_changed_is_believed_in_the_end() {
        let mut external = External::default();
        for n in 0..100 {
            external.seen(peer(n), ip("203.0.113.1"));
        }
        let until = (0..100).position(|n| external.seen(peer(100 + n), ip("203.0.113.2"))).unwrap();
        assert!(until <= MAX_WITNESSES / 2, "{until}");
    }
}
