//! Addresses in one form, so that one peer is one peer.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The address with `::ffff:a.b.c.d` as a.b.c.d and without what names no other peer: a flow label, and a scope where
/// the address is not link-local.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match (addr.ip().to_canonical(), addr) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()))
        }
        (ip, _) => SocketAddr::new(ip, addr.port()),
    }
}

/// Whom an address belongs to: a host of IPv6 has a /64 to itself, any address of it.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// True if a connection can be made to it at all. `addr` is canonical.
pub(super) fn dialable(addr: SocketAddr) -> bool {
    let broadcast = matches!(addr.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_peer_has_one_address() {
        assert_eq!(canonical(addr("[::ffff:1.2.3.4]:5")), addr("1.2.3.4:5"));
        assert_eq!(canonical(addr("[2001:db8::1]:5")), addr("[2001:db8::1]:5"));
        let labelled = SocketAddr::V6(SocketAddrV6::new("2001:db8::1".parse().unwrap(), 5, 77, 3));
        assert_eq!(canonical(labelled), addr("[2001:db8::1]:5"));
        let local = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 77, 3));
        assert_eq!(canonical(local), SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, 3)));
    }

    #[test]
    fn a_network_is_one_hosts() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("1.2.3.4"), "1.2.3.4".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_cannot_be_connected_to_is_not_dialable() {
        assert!(dialable(addr("127.0.0.1:1")));
        for bad in ["1.2.3.4:0", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
            assert!(!dialable(addr(bad)), "{bad}");
        }
    }
}
