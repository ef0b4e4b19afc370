//! Canonical peer priority (BEP 40): both ends of a connection reckon the same number from their addresses, so that who
//! keeps whom at a limit is agreed upon, random over the swarm, and cannot be chosen by who names addresses.

use std::net::{IpAddr, SocketAddr};

/// The priority of a connection between us and a peer, as both of us see it; higher is kept. None between families.
pub(super) fn priority(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    match (ours.ip(), theirs.ip()) {
        (a, b) if a == b => {
            let [low, high] = sorted(ours.port().to_be_bytes(), theirs.port().to_be_bytes());
            Some(crc32c::crc32c(&[low, high].concat()))
        }
        (IpAddr::V4(a), IpAddr::V4(b)) => Some(of_networks(a.octets(), b.octets(), 2)),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some(of_networks(a.octets(), b.octets(), 6)),
        _ => None,
    }
}

/// Every other bit of what follows the network counts, so that it does not pay to take many addresses of one. The network
/// is `least` bytes long, and a byte longer than what both have in common.
fn of_networks<const N: usize>(mut a: [u8; N], mut b: [u8; N], least: usize) -> u32 {
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let network = if common < least { least } else { common + 1 };
    for byte in a.iter_mut().chain(b.iter_mut()).enumerate().filter(|(at, _)| at % N >= network).map(|(_, byte)| byte) {
        *byte &= 0x55;
    }
    crc32c::crc32c(&sorted(a, b).concat())
}

fn sorted<T: Ord>(a: T, b: T) -> [T; 2] {
    if a <= b { [a, b] } else { [b, a] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(a: &str, b: &str) -> Option<u32> {
        priority(a.parse().unwrap(), b.parse().unwrap())
    }

    #[test]
    fn the_examples_of_the_specification() {
        // BEP 40.
        assert_eq!(of("123.213.32.10:1", "98.76.54.32:2"), Some(0xEC2D_7224));
        assert_eq!(of("123.213.32.10:1", "123.213.32.234:2"), Some(0x9956_8189));
    }

    #[test]
    fn one_address_with_two_ports_and_two_families() {
        assert_eq!(of("1.2.3.4:5", "1.2.3.4:6"), Some(crc32c::crc32c(&[0, 5, 0, 6])));
        assert_eq!(of("1.2.3.4:5", "[2001:db8::1]:5"), None);
    }

    #[test]
    fn only_every_other_bit_behind_the_network_counts() {
        assert_eq!(of("1.2.3.4:1", "9.8.0.0:1"), of("1.2.3.4:1", "9.8.170.170:9"));
        assert_ne!(of("1.2.3.4:1", "9.8.0.0:1"), of("1.2.3.4:1", "9.9.0.0:1"));
        assert_eq!(of("[2001:db8:1::1]:1", "[2001:db8:2::]:1"), of("[2001:db8:1::1]:1", "[2001:db8:2:aaaa::]:1"));
        assert_ne!(of("[2001:db8:1::1]:1", "[2001:db8:1:ff00::]:1"), of("[2001:db8:1::1]:1", "[2001:db8:1:5500::]:1"));
    }

    proptest! {
        #[test]
        fn both_sides_reckon_the_same(a: [u8; 16], b: [u8; 16], ports: (u16, u16)) {
            let (v6a, v6b) = (SocketAddr::from((a, ports.0)), SocketAddr::from((b, ports.1)));
            prop_assert_eq!(priority(v6a, v6b), priority(v6b, v6a));
            let v4 = |bytes: [u8; 16], port| SocketAddr::from(([bytes[0], bytes[1], bytes[2], bytes[3]], port));
            prop_assert_eq!(priority(v4(a, 1), v4(b, 2)), priority(v4(b, 2), v4(a, 1)));
            prop_assert!(priority(v4(a, 1), v4(b, 2)).is_some());
        }
    }
}
