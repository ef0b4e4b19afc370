//! What a web seed (BEP 19) answers to a request for a range of a file (RFC 9110): whether its body can be used, and if
//! not, whether to ask again later or never. Only the head is looked at; whether the bytes are right is for the hash.

use std::ops::Range;
use std::time::Duration;

/// The most that is read and thrown away where a server starts before what was asked for: anacrolix's number, about what
/// a socket holds when a connection is given up instead.
pub const MAX_SKIP: u64 = 48 * 1024;
/// The longest that a server can make us wait by `Retry-After`: half of what a tracker's longest back-off is.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The head of a reply. Header values are as they came; none for a header that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeReply<'a> {
    /// The status code.
    pub status: u16,
    /// `Content-Range`.
    pub content_range: Option<&'a [u8]>,
    /// `Content-Length`.
    pub content_length: Option<&'a [u8]>,
    /// `Content-Encoding`.
    pub content_encoding: Option<&'a [u8]>,
    /// `Retry-After`.
    pub retry_after: Option<&'a [u8]>,
    /// `Date`: a `Retry-After` that is a date is reckoned from it.
    pub date: Option<&'a [u8]>,
}

/// What is to be done with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The body has the bytes that were asked for, from the first one on.
    Body {
        /// Bytes that come before them, [`MAX_SKIP`] at the most.
        skip: u64,
        /// How many of the bytes that were asked for come, from the first on; more may follow them.
        length: u64,
    },
    /// Not now; perhaps after this time, or after the usual one.
    Later(Option<Duration>),
    /// This file is not to be had from this server.
    Never(Refused),
}

/// Why a file is not to be had: completes "the server ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 404, 410.
    #[error("does not have it")]
    Missing,
    /// 401, 403, 407, 451.
    #[error("does not give it to us (HTTP status {0})")]
    Forbidden(u16),
    /// 416, or a length that is not the torrent's.
    #[error("has a file of another length")]
    Length,
    /// 200 where the range starts far inside the file.
    #[error("does not support ranges")]
    NoRanges,
    /// 206 with another range, or without one.
    #[error("sends another range than it was asked for")]
    Range,
    /// A compressed body: its bytes are not those of the range.
    #[error("sends it compressed, though it was told not to")]
    Encoded,
    /// What no web seed answers.
    #[error("answers with HTTP status {0}")]
    Status(u16),
}

impl RangeReply<'_> {
    /// Judges the reply to a request for `range` of a file of `length` bytes. The range is not empty and lies inside the
    /// file.
    #[must_use]
    pub fn judge(&self, range: &Range<u64>, length: u64) -> Verdict {
        let refused = match self.status {
            200 | 206 if self.encoded() && !self.is_as_long_as(length) => Refused::Encoded,
            200 => match self.content_length.and_then(number) {
                Some(other) if other != length => Refused::Length,
                _ if range.start > MAX_SKIP => Refused::NoRanges,
                _ => return Verdict::Body { skip: range.start, length: range.end - range.start },
            },
            206 => match self.content_range.and_then(content_range) {
                Some((_, Some(other))) if other != length => Refused::Length,
                Some((came, _)) if came.start == range.start => {
                    return Verdict::Body { skip: 0, length: came.end.min(range.end) - range.start };
                }
                _ => Refused::Range,
            },
            401 | 403 | 407 | 451 => Refused::Forbidden(self.status),
            404 | 410 => Refused::Missing,
            416 => Refused::Length,
            408 | 425 | 429 | 500..=599 => return Verdict::Later(self.retry_after()),
            status => Refused::Status(status),
        };
        Verdict::Never(refused)
    }

    /// True if its body is as long as what it says that it is: the file as it is stored, of this length.
    fn is_as_long_as(&self, length: u64) -> bool {
        let body = self.content_length.and_then(number);
        match self.content_range.and_then(content_range).filter(|_| self.status == 206) {
            Some((range, whole)) => whole == Some(length) && body == Some(range.end - range.start),
            None => body == Some(length),
        }
    }

    /// True if its bytes may be those of a compressed copy. Some servers say so of a file that is compressed itself (Apache
    /// of .tar.gz), and send it as it is.
    fn encoded(&self) -> bool {
        let plain = |value: &[u8]| value.is_empty() || value.eq_ignore_ascii_case(b"identity");
        self.content_encoding.is_some_and(|value| !plain(value.trim_ascii()))
    }

    /// How long the server asks to be left alone: seconds, or the time to a date (RFC 9110, 10.2.3). At most
    /// [`MAX_RETRY_AFTER`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.retry_after?;
        let seconds = match number(value) {
            Some(seconds) => seconds,
            None => date(value)?.saturating_sub(date(self.date?)?),
        };
        Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
    }
}

/// A number in digits and nothing else. One that is too large is as large as can be.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let add = |n: u64, b: &u8| b.is_ascii_digit().then(|| n.saturating_mul(10).saturating_add(u64::from(b - b'0')));
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// `bytes 5-9/10` or `bytes 5-9/*` as a half-open range, and the length of the whole if it is said.
fn content_range(value: &[u8]) -> Option<(Range<u64>, Option<u64>)> {
    let value = value.trim_ascii();
    let (unit, rest) = value.split_at_checked(5)?;
    if !unit.eq_ignore_ascii_case(b"bytes") || !rest.first()?.is_ascii_whitespace() {
        return None;
    }
    let at = |byte: u8, of: &[u8]| of.iter().position(|&b| b == byte);
    let slash = at(b'/', rest)?;
    let (span, total) = (&rest[..slash], rest[slash + 1..].trim_ascii());
    let dash = at(b'-', span)?;
    let (first, last) = (number(&span[..dash])?, number(&span[dash + 1..])?);
    let total = if total == b"*" { None } else { Some(number(total)?) };
    if last < first || last == u64::MAX || total.is_some_and(|total| last >= total) {
        return None;
    }
    Some((first..last + 1, total))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7) as seconds since 1970. Obsolete forms are not read.
fn date(value: &[u8]) -> Option<u64> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let value = value.trim_ascii();
    let part = |at: Range<usize>| value.get(at).and_then(number);
    if value.len() != 29 || !value.ends_with(b" GMT") {
        return None;
    }
    let (day, year) = (part(5..7)?, part(12..16)?);
    let month = MONTHS.iter().position(|name| value.get(8..11) == Some(&name[..]))?;
    let month = u64::try_from(month).ok()?;
    let time = part(17..19)? * 3_600 + part(20..22)? * 60 + part(23..25)?;
    // Days since 0000-03-01: the leap day is the last of its year.
    let (year, month) = if month < 2 { (year.checked_sub(1)?, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.checked_sub(1)?;
    Some(days.checked_sub(719_468)? * 86_400 + time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: u64 = 1_000_000;
    const RANGE: Range<u64> = 100_000..200_000;

    fn judge(status: u16, headers: &[(&str, &str)]) -> Verdict {
        judge_range(status, headers, &RANGE)
    }

    fn judge_range(status: u16, headers: &[(&str, &str)], range: &Range<u64>) -> Verdict {
        let find = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes());
        let reply = RangeReply {
            status,
            content_range: find("range"),
            content_length: find("length"),
            content_encoding: find("encoding"),
            retry_after: find("retry"),
            date: find("date"),
        };
        reply.judge(range, LENGTH)
    }

    #[test]
    fn a_range_that_was_asked_for_is_used() {
        let whole = Verdict::Body { skip: 0, length: 100_000 };
        for range in ["bytes 100000-199999/1000000", "bytes 100000-199999/*", "BYTES  100000-199999/1000000 "] {
            assert_eq!(judge(206, &[("range", range)]), whole, "{range}");
        }
        assert_eq!(judge(206, &[("range", "bytes 100000-999999/1000000")]), whole, "more comes than was asked for");
        let part = Verdict::Body { skip: 0, length: 50_000 };
        assert_eq!(judge(206, &[("range", "bytes 100000-149999/1000000")]), part);
        assert_eq!(judge(206, &[("range", "bytes 100000-199999/*"), ("encoding", " Identity ")]), whole);
    }

    #[test]
    fn a_whole_file_is_used_if_the_range_is_near_its_start() {
        let near = Verdict::Body { skip: 48 * 1024, length: 10 };
        assert_eq!(judge_range(200, &[("length", "1000000")], &(49_152..49_162)), near);
        assert_eq!(judge_range(200, &[], &(49_152..49_162)), near, "chunked");
        assert_eq!(judge_range(200, &[], &(0..LENGTH)), Verdict::Body { skip: 0, length: LENGTH });
        assert_eq!(judge_range(200, &[], &(49_153..49_162)), Verdict::Never(Refused::NoRanges));
        assert_eq!(judge_range(200, &[("length", "999999")], &(0..1)), Verdict::Never(Refused::Length));
    }

    #[test]
    fn what_is_no_such_range_is_refused() {
        for range in [
            "bytes 100001-199999/1000000",
            "bytes 0-199999/1000000",
            "bytes 199999-100000/1000000",
            "bytes */1000000",
            "bytes 100000-1000000/1000000",
            "bytes 100000-18446744073709551615/*",
            "bytes 100000-99999999999999999999999/*",
            "bytes -100000-199999/*",
            "bytes 100000-199999",
            "bytes=100000-199999/1000000",
            "items 100000-199999/1000000",
            "byte\u{e4} 1-2/3",
            "",
        ] {
            assert_eq!(judge(206, &[("range", range)]), Verdict::Never(Refused::Range), "{range}");
        }
        assert_eq!(judge(206, &[]), Verdict::Never(Refused::Range), "multipart/byteranges has none");
        assert_eq!(judge(206, &[("range", "bytes 100000-199999/1000001")]), Verdict::Never(Refused::Length));
        let gzip = [("range", "bytes 100000-199999/1000000"), ("encoding", "gzip")];
        assert_eq!(judge(206, &gzip), Verdict::Never(Refused::Encoded));
        let length = |length: &'static str| [&gzip[..], &[("length", length)]].concat();
        assert_eq!(judge(206, &length("60000")), Verdict::Never(Refused::Encoded));
        assert_eq!(
            judge(206, &length("100000")),
            Verdict::Body { skip: 0, length: 100_000 },
            "the file itself is gzip"
        );
    }

    #[test]
    fn statuses() {
        for (status, refused) in [
            (404, Refused::Missing),
            (410, Refused::Missing),
            (401, Refused::Forbidden(401)),
            (403, Refused::Forbidden(403)),
            (416, Refused::Length),
            (204, Refused::Status(204)),
            (304, Refused::Status(304)),
            (400, Refused::Status(400)),
            (0, Refused::Status(0)),
        ] {
            assert_eq!(judge(status, &[]), Verdict::Never(refused), "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504, 599] {
            assert_eq!(judge(status, &[]), Verdict::Later(None), "{status}");
        }
    }

    #[test]
    fn a_server_may_say_when_to_come_again() {
        let later = |retry, date| judge(503, &[("retry", retry), ("date", date)]);
        let seconds = |n| Verdict::Later(Some(Duration::from_secs(n)));
        assert_eq!(later("7", ""), seconds(7));
        assert_eq!(later("0", ""), seconds(0));
        assert_eq!(later("99999999999999999999999", ""), seconds(300));
        assert_eq!(later("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:07 GMT"), seconds(30));
        assert_eq!(later("Sun, 06 Nov 1994 08:49:07 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"), seconds(0));
        for retry in ["soon", "-1", "", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 00 Nov 1994 08:49:37 GMT"] {
            assert_eq!(later(retry, "Sun, 06 Nov 1994 08:49:07 GMT"), Verdict::Later(None), "{retry}");
        }
        assert_eq!(later("Sun, 06 Nov 1994 08:49:37 GMT", "today"), Verdict::Later(None));
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        assert_eq!(date(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(date(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date(b"Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(date(b"Fri, 01 Mar 0000 00:00:00 GMT"), None);
    }

    proptest! {
        /// Whatever comes, what is used lies inside of what was asked for.
        #[test]
        fn any_head_is_judged(
            status in prop_oneof![Just(200_u16), Just(206), any::<u16>()],
            range in proptest::option::of(prop_oneof!["bytes [0-9]{1,8}-[0-9]{1,8}/([0-9]{1,8}|\\*)", ".{0,40}"]),
            others in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), 4),
            start in 0..LENGTH,
            wanted in 1..LENGTH,
        ) {
            let asked = start..(start + wanted).min(LENGTH);
            let reply = RangeReply {
                status,
                content_range: range.as_ref().map(|r| r.as_bytes()),
                content_length: others[0].as_deref(),
                content_encoding: others[1].as_deref(),
                retry_after: others[2].as_deref(),
                date: others[3].as_deref(),
            };
            match reply.judge(&asked, LENGTH) {
                Verdict::Body { skip, length } => {
                    prop_assert!(skip <= MAX_SKIP && length > 0 && length <= asked.end - asked.start);
                }
                Verdict::Later(wait) => prop_assert!(wait.is_none_or(|wait| wait <= MAX_RETRY_AFTER)),
                Verdict::Never(_) => {}
            }
        }
    }
}
