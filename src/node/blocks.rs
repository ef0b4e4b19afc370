//! Addresses that the user wants nothing to do with: the text formats in which such lists are passed around, and ranges
//! that are looked up by halving.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// From this access level on, a range of a DAT list is allowed (eMule's rule, which libtorrent's users have, too).
const ALLOWED: u32 = 128;

/// A block list. Ranges are inclusive, sorted, and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocks {
    v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    v6: Vec<(Ipv6Addr, Ipv6Addr)>,
}

impl Blocks {
    /// Reads a list, and says how many lines of it are none of the forms: `name:1.2.3.4-1.2.3.10` (P2P, as PeerGuardian),
    /// `001.002.003.004 - 001.002.003.010 , 000 , name` (DAT), `1.2.3.0/24`, `1.2.3.4-1.2.3.10` and `1.2.3.4`, and all but
    /// DAT for IPv6 as well. Empty lines and comments (`#`, `//`, `;`) are no lines.
    #[must_use]
    pub fn parse(text: &[u8]) -> (Self, usize) {
        let (mut blocks, mut wrong) = (Self::default(), 0);
        for line in text.split(|&byte| byte == b'\n') {
            // Names are in whatever encoding: they are not looked at.
            let line = match line_of(line.trim_ascii()) {
                // Mapped ones are addresses of IPv4.
                Line::Range(first, last) => Line::Range(first.to_canonical(), last.to_canonical()),
                other => other,
            };
            match line {
                Line::Range(IpAddr::V4(first), IpAddr::V4(last)) if first <= last => blocks.v4.push((first, last)),
                Line::Range(IpAddr::V6(first), IpAddr::V6(last)) if first <= last => blocks.v6.push((first, last)),
                Line::Range(..) | Line::Wrong => wrong += 1,
                Line::Nothing => {}
            }
        }
        merge(&mut blocks.v4, |ip| ip.to_bits().checked_add(1).map(Ipv4Addr::from_bits));
        merge(&mut blocks.v6, |ip| ip.to_bits().checked_add(1).map(Ipv6Addr::from_bits));
        (blocks, wrong)
    }

    /// True if the list has this address. An IPv4 address inside an IPv6 one counts as itself.
    #[must_use]
    pub fn contain(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => covers(&self.v4, ip),
            IpAddr::V6(ip) => covers(&self.v6, ip),
        }
    }

    /// Ranges that it has after those that overlap or touch have become one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// True if it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], ip: T) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= ip);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|&(_, last)| ip <= last)
}

/// Sorts ranges, and makes one of those that overlap or touch.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>, next: impl Fn(T) -> Option<T>) {
    ranges.sort_unstable();
    ranges.dedup_by(|(first, last), (_, end)| {
        let joined = next(*end).is_none_or(|next| *first <= next);
        if joined {
            *end = (*end).max(*last);
        }
        joined
    });
    ranges.shrink_to_fit();
}

/// What a line says.
enum Line {
    Range(IpAddr, IpAddr),
    /// A comment, or a range that a DAT list allows.
    Nothing,
    Wrong,
}

fn line_of(line: &[u8]) -> Line {
    if line.is_empty() || matches!(line, [b'#' | b';', ..] | [b'/', b'/', ..]) {
        return Line::Nothing;
    }
    // DAT: the level and the name are behind commas.
    let mut fields = line.split(|&byte| byte == b',');
    let range = fields.next().and_then(range_of);
    if let (Some((first, last)), level) = (range, fields.next()) {
        let Some(level) = level else { return Line::Range(first, last) };
        return match str::from_utf8(level).ok().and_then(|level| level.trim().parse::<u32>().ok()) {
            Some(level) if level >= ALLOWED => Line::Nothing,
            Some(_) => Line::Range(first, last),
            None => Line::Wrong,
        };
    }
    // P2P: the name may hold colons, and so may the range behind it: the first colon that makes sense is the one.
    let mut rest = line;
    while let Some(at) = rest.iter().position(|&byte| byte == b':') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if let Some((first, last)) = range_of(rest) {
            return Line::Range(first, last);
        }
    }
    Line::Wrong
}

/// `FIRST-LAST`, `NETWORK/BITS`, or an address alone; a comment may follow.
fn range_of(text: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let text = text.split(|&byte| byte == b'#').next().unwrap_or_default();
    let text = str::from_utf8(text).ok()?.trim();
    if let Some((first, last)) = text.split_once('-') {
        return Some((address(first)?, address(last)?));
    }
    if text.contains('/') {
        let net = IpNet::from_str(text).ok()?;
        return Some((net.network(), net.broadcast()));
    }
    address(text).map(|ip| (ip, ip))
}

/// An address. Numbers of IPv4 may begin with zeros, as DAT lists have them, and are decimal all the same.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        return text.parse().ok();
    }
    let mut octets = [0; 4];
    let mut numbers = text.split('.');
    for octet in &mut octets {
        let number = numbers.next().filter(|number| (1..=3).contains(&number.len()))?;
        *octet = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()?;
    }
    numbers.next().is_none().then_some(IpAddr::from(octets))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(text: &str) -> Blocks {
        let (blocks, wrong) = Blocks::parse(text.as_bytes());
        assert_eq!(wrong, 0, "{text}");
        blocks
    }

    fn has(blocks: &Blocks, ip: &str) -> bool {
        blocks.contain(ip.parse().unwrap())
    }

    #[test]
    fn every_format_is_read() {
        for line in [
            "Some Company, Ltd:1.2.3.4-1.2.3.10",
            "10.0.0.0 - note: 5:1.2.3.4-1.2.3.10",
            ":1.2.3.4-1.2.3.10",
            "001.002.003.004 - 001.002.003.010 , 000 , Some Company",
            "1.2.3.4-1.2.3.10,127,name, and more",
            "  1.2.3.4 - 1.2.3.10  ",
            "1.2.3.4-1.2.3.10 # why",
            "1.2.3.4/30\n1.2.3.8/31\r\n1.2.3.10\n",
            "::ffff:1.2.3.4-::ffff:1.2.3.10",
            "::ffff:1.2.3.4/126\n::ffff:1.2.3.8/127\n1.2.3.10",
        ] {
            let blocks = blocks(line);
            for (ip, covered) in [("1.2.3.3", false), ("1.2.3.4", true), ("1.2.3.10", true), ("1.2.3.11", false)] {
                assert_eq!(has(&blocks, ip), covered, "{line}: {ip}");
                assert_eq!(has(&blocks, &format!("::ffff:{ip}")), covered, "{line}: {ip}, mapped");
            }
            assert_eq!(blocks.len(), 1, "{line}");
        }
        for line in ["2001:db8::/32", "evil:2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "net:2001:db8::/32"] {
            let blocks = blocks(line);
            for (ip, covered) in
                [("2001:db7::1", false), ("2001:db8::1", true), ("2001:db9::", false), ("1.2.3.4", false)]
            {
                assert_eq!(has(&blocks, ip), covered, "{line}: {ip}");
            }
        }
        assert!(has(&blocks("fe80::1"), "fe80::1") && has(&blocks("name:fe80::1"), "fe80::1"));
    }

    #[test]
    fn comments_and_allowed_ranges_block_nothing() {
        let text = "# 1.2.3.4\n\n; 1.2.3.4\n//1.2.3.4\n1.2.3.4 - 1.2.3.4 , 128 , allowed\n   \t\r\n";
        assert!(blocks(text).is_empty());
    }

    #[test]
    fn lines_that_are_none_are_counted() {
        let text: &[u8] = b"nonsense\n1.2.3.4-\n1.2.3.10-1.2.3.4\n1.2.3\n1.2.3.4.5\n1.2.3.256\n1.2.3.4/33\n\
            1.2.3.4-2001:db8::1\nname:\xff\n+1.2.3.4\n0001.2.3.4\n1.2.3.4-1.2.3.5,x\n\xff\xfe\x00name:9.9.9.9-9.9.9.9\n";
        let (blocks, wrong) = Blocks::parse(text);
        assert_eq!((blocks.len(), wrong), (1, 12), "{blocks:?}");
        assert!(has(&blocks, "9.9.9.9"), "a name in another encoding is a name");
    }

    #[test]
    fn the_ends_of_the_space_are_covered() {
        let all = blocks("0.0.0.0/0\n255.255.255.255\n::/0\nffff::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n");
        assert_eq!(all.len(), 2);
        for ip in ["0.0.0.0", "255.255.255.255", "::2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(has(&all, ip), "{ip}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_of_ranges(ranges in proptest::collection::vec((0u32..300, 0u32..40), 0..40)) {
            let base = u32::from(Ipv4Addr::new(9, 9, 9, 200));
            let ranges: Vec<_> = ranges.into_iter().map(|(from, length)| (base + from, base + from + length)).collect();
            let text: String = ranges.iter().enumerate().map(|(n, &(first, last))| {
                let (first, last) = (Ipv4Addr::from(first), Ipv4Addr::from(last));
                if n % 2 == 0 { format!("n:{first}-{last}\n") } else { format!("{first} - {last} , 000 , n\n") }
            }).collect();
            let blocks = blocks(&text);
            for ip in base - 3..base + 345 {
                let covered = ranges.iter().any(|&(first, last)| (first..=last).contains(&ip));
                prop_assert_eq!(blocks.contain(Ipv4Addr::from(ip).into()), covered, "{}", Ipv4Addr::from(ip));
            }
            prop_assert!(blocks.v4.windows(2).all(|pair| u32::from(pair[0].1) + 1 < u32::from(pair[1].0)));
        }

        #[test]
        fn whatever_is_in_a_file_it_is_read(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (blocks, wrong) = Blocks::parse(&text);
            let lines = text.split(|&byte| byte == b'\n').count();
            prop_assert!(blocks.len() + wrong <= lines);
        }

        #[test]
        fn what_looks_like_a_line_is_read(text in "[0-9a-f:./, -]{0,60}") {
            let (blocks, wrong) = Blocks::parse(text.as_bytes());
            prop_assert!(blocks.len() + wrong <= 1);
        }
    }
}
