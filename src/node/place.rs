//! Where an address lies: what a stranger names may not lead us further inwards than the stranger is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address lies, from the outside inwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
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
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
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
}
