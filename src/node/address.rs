//! Addresses in one form, so that one peer is one peer.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The address with `::ffff:a.b.c.d` as a.b.c.d and without what names no other peer: a flow label, and a scope where
/// the address is not link-local.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match (addr.ip().to_canonical(), addr) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()))
        }
        (ip, _) => SocketAddr::new(ip, addr.port()),
    }
}

/// True for addresses that whole labs share (loopback, private, link-local, carrier NAT): how many peers are behind one
/// says nothing about who they are. `ip` is canonical.
pub(super) fn shared(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            // 100.64.0.0/10 is carrier-grade NAT (RFC 6598).
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
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
    fn shared_and_dialable() {
        for ip in ["127.3.0.1", "10.0.0.1", "192.168.1.1", "169.254.0.1", "100.64.0.1", "::1", "fd00::1", "fe80::1"] {
            assert!(shared(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.2.3.4", "100.128.0.1", "2001:db8::1"] {
            assert!(!shared(ip.parse().unwrap()), "{ip}");
        }
        assert!(dialable(addr("127.0.0.1:1")));
        for bad in ["1.2.3.4:0", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
            assert!(!dialable(addr(bad)), "{bad}");
        }
    }
}
