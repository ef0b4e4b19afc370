//! Where an address comes from, and which addresses are believed of whom: a stranger may not make us send to services of
//! this machine or network that are no peers (hardening P17).

use std::net::{IpAddr, SocketAddr};

use super::address::dialable;
use super::place::Place;

/// Where an address comes from. The place is that of who named it: it may name what lies where it lies itself, and
/// further outwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The user named it: dialled first, retried soon and never given up.
    User,
    /// A magnet link that the user gave names it, in digits.
    Link,
    /// A tracker named it.
    Tracker(Place),
    /// A peer that connected to us told where it listens.
    Incoming,
    /// A connected peer named it (BEP 11).
    Pex(Place),
    /// A node of the DHT named it (BEP 5).
    Dht(Place),
    /// It named itself to everybody on a network that we are on (BEP 14).
    Lsd,
}

impl Source {
    /// True if an address is taken from this source: a connection can be made to it, and it lies no further inwards than
    /// who named it. `addr` is canonical. Link-local addresses are taken from the user and from who has one himself.
    pub(super) fn admits(self, addr: SocketAddr) -> bool {
        if !dialable(addr) {
            return false;
        }
        let place = Place::of(addr.ip());
        match self {
            Self::User | Self::Incoming => true,
            Self::Link => place != Place::LinkLocal,
            // An IPv4 one is where cloud metadata services live.
            Self::Lsd => place != Place::LinkLocal || matches!(addr.ip(), IpAddr::V6(_)),
            Self::Tracker(from) | Self::Pex(from) | Self::Dht(from) => match place {
                Place::Global => true,
                Place::Private => from >= Place::Private && from != Place::LinkLocal,
                Place::Loopback => from == Place::Loopback,
                Place::LinkLocal => false,
            },
        }
    }

    /// True if a private torrent takes addresses from this source (BEP 27).
    pub(super) fn serves_private(self) -> bool {
        match self {
            Self::User | Self::Link | Self::Tracker(_) | Self::Incoming => true,
            Self::Pex(_) | Self::Dht(_) | Self::Lsd => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(source: Source, addr: &str) -> bool {
        source.admits(addr.parse().expect("an address"))
    }

    #[test]
    fn nobody_names_what_lies_further_inwards_than_he_does() {
        for named in [Source::Tracker, Source::Pex, Source::Dht] {
            for from in [Place::Global, Place::Private, Place::Loopback, Place::LinkLocal] {
                assert!(admits(named(from), "8.8.8.8:1") && admits(named(from), "[2606:4700::1]:1"));
                for local in ["10.0.0.1:1", "100.64.0.1:1", "[fd00::1]:1"] {
                    assert_eq!(admits(named(from), local), matches!(from, Place::Private | Place::Loopback), "{local}");
                }
                for local in ["127.0.0.1:1", "[::1]:1"] {
                    assert_eq!(admits(named(from), local), from == Place::Loopback, "{local}");
                }
                for never in ["169.254.169.254:80", "[fe80::1]:1", "8.8.8.8:0", "0.0.0.0:1", "224.0.0.1:1"] {
                    assert!(!admits(named(from), never), "{never}");
                }
            }
        }
    }

    #[test]
    fn who_names_himself_is_believed() {
        for addr in ["10.0.0.1:1", "127.0.0.1:1", "8.8.8.8:1", "[fe80::1]:1"] {
            assert!(
                admits(Source::Lsd, addr) && admits(Source::User, addr) && admits(Source::Incoming, addr),
                "{addr}"
            );
        }
        assert!(!admits(Source::Lsd, "169.254.169.254:80") && admits(Source::User, "169.254.1.1:80"));
        for source in [Source::Lsd, Source::User, Source::Incoming] {
            assert!(!admits(source, "10.0.0.1:0") && !admits(source, "255.255.255.255:1"));
        }
    }
}
