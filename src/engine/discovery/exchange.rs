//! One exchange with a UDP tracker at one address (BEP 15), without socket and clock: what is sent when, and which
//! datagrams count. First a connection id, unless one is known; then the request itself. What is not answered is sent
//! again after 15 x 2^n seconds.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::wire::{AnnounceQuery, ScrapeEntry, UdpReply, UdpRequest, decode_udp_reply, encode_udp_request};

/// How long a connection id is used (BEP 15).
pub(super) const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// A connection id, and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) since: Instant,
}

impl Connection {
    pub(super) fn is_good(&self, now: Instant) -> bool {
        now < self.since + CONNECTION_LIFE
    }
}

/// What a tracker is asked.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// An announce; the path and query of the tracker's URL go with it (BEP 41).
    Announce { query: AnnounceQuery, url_data: Vec<u8> },
    /// At most [`crate::wire::MAX_SCRAPE`] torrents.
    Scrape(Vec<[u8; 20]>),
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this.
    Send(Vec<u8>),
    /// Nothing until then, unless a datagram comes.
    Wait(Instant),
    /// All attempts are over.
    GiveUp,
}

/// How an exchange ends well.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Announce {
        interval: u32,
        leechers: u32,
        seeders: u32,
        peers: Vec<std::net::SocketAddr>,
    },
    Scrape(Vec<ScrapeEntry>),
    /// The tracker refuses, in its own words.
    Refusal(String),
}

#[derive(Debug)]
pub(super) struct Exchange {
    question: Question,
    v6: bool,
    /// The wait after the first attempt of all; every further one doubles it.
    first_wait: Duration,
    /// The attempts that are left; the first of them is under way once `until` is set.
    attempts: Range<u32>,
    connection: Option<Connection>,
    /// The connection id is from an earlier exchange: it may be what the tracker does not like.
    reused: bool,
    /// Of the request under way. Sent again, it keeps its number: a late reply counts.
    transaction: u32,
    until: Option<Instant>,
    rng: StdRng,
}

/// How long the tracker has for its reply to attempt `n`, counted from 0.
pub(super) fn wait(first: Duration, n: u32) -> Duration {
    first.saturating_mul(1 << n.min(8))
}

impl Exchange {
    /// An exchange that makes `attempts`, counted from 0 over all addresses of the tracker. `v6`: it is over IPv6.
    /// `known` is a connection id of an earlier exchange with this address. `rng` must not be guessable: the numbers
    /// that it gives are what keeps strangers from answering in the tracker's place.
    pub(super) fn new(
        question: Question,
        v6: bool,
        attempts: Range<u32>,
        first_wait: Duration,
        known: Option<Connection>,
        mut rng: StdRng,
    ) -> Self {
        let transaction = rng.next_u32();
        let (connection, reused) = (known, known.is_some());
        Self { question, v6, first_wait, attempts, connection, reused, transaction, until: None, rng }
    }

    /// What is to be done now. After a `Send` it is asked again at once.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        if let Some(until) = self.until {
            if now < until {
                return Step::Wait(until);
            }
            self.attempts.start += 1;
            // Trackers that have forgotten an id may be silent about it.
            if self.reused || self.connection.is_some_and(|c| !c.is_good(now)) {
                self.begin(None);
            }
        }
        if self.attempts.is_empty() {
            return Step::GiveUp;
        }
        self.until = Some(now + wait(self.first_wait, self.attempts.start));
        Step::Send(encode_udp_request(&self.request()))
    }

    /// A datagram came from the tracker's address. `None` if it is not the end: it is ignored, or what is next to be
    /// done has changed.
    pub(super) fn received(&mut self, now: Instant, datagram: &[u8]) -> Option<Reply> {
        let reply = decode_udp_reply(datagram, self.v6).ok()?;
        let (UdpReply::Connect { transaction, .. }
        | UdpReply::Announce { transaction, .. }
        | UdpReply::Scrape { transaction, .. }
        | UdpReply::Error { transaction, .. }) = &reply;
        if *transaction != self.transaction || self.until.is_none() {
            return None;
        }
        match (reply, &self.question, self.connection) {
            (UdpReply::Connect { connection: id, .. }, _, None) => {
                self.begin(Some(Connection { id, since: now }));
                None
            }
            (UdpReply::Announce { interval, leechers, seeders, peers, .. }, Question::Announce { .. }, Some(_)) => {
                Some(Reply::Announce { interval, leechers, seeders, peers })
            }
            (UdpReply::Scrape { entries, .. }, Question::Scrape(asked), Some(_)) if entries.len() >= asked.len() => {
                Some(Reply::Scrape(entries.into_iter().take(asked.len()).collect()))
            }
            (UdpReply::Error { .. }, _, Some(_)) if self.reused => {
                // Most likely about the id; with a new one the tracker says whether it was.
                self.begin(None);
                None
            }
            (UdpReply::Error { message, .. }, ..) => Some(Reply::Refusal(message)),
            _ => None,
        }
    }

    /// The connection id that further exchanges with this address may use.
    pub(super) fn connection(&self) -> Option<Connection> {
        self.connection
    }

    /// Begins with the request for a connection id, or, with one, with what is to be asked.
    fn begin(&mut self, connection: Option<Connection>) {
        self.connection = connection;
        self.reused = false;
        self.transaction = self.rng.next_u32();
        self.until = None;
    }

    fn request(&self) -> UdpRequest {
        let transaction = self.transaction;
        let Some(Connection { id: connection, .. }) = self.connection else {
            return UdpRequest::Connect { transaction };
        };
        match self.question.clone() {
            Question::Announce { query, url_data } => UdpRequest::Announce { connection, transaction, query, url_data },
            Question::Scrape(info_hashes) => UdpRequest::Scrape { connection, transaction, info_hashes },
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::wire::{Event, PeerId, decode_udp_request, encode_udp_reply};

    const FIRST: Duration = Duration::from_secs(15);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn announce() -> Question {
        let query = AnnounceQuery {
            info_hash: [1; 20],
            peer_id: PeerId([2; 20]),
            port: 6881,
            uploaded: 3,
            downloaded: 4,
            left: 5,
            event: Event::Started,
            numwant: 200,
            key: 6,
            tracker_id: None,
        };
        Question::Announce { query, url_data: b"/announce?k=v".to_vec() }
    }

    fn exchange(question: Question, attempts: Range<u32>, known: Option<Connection>) -> Exchange {
        Exchange::new(question, false, attempts, FIRST, known, StdRng::seed_from_u64(7))
    }

    /// What it sends now.
    fn sent(exchange: &mut Exchange, now: Instant) -> UdpRequest {
        let Step::Send(bytes) = exchange.next(now) else { panic!("it sends") };
        decode_udp_request(&bytes).expect("a request")
    }

    fn transaction(request: &UdpRequest) -> u32 {
        let (UdpRequest::Connect { transaction }
        | UdpRequest::Announce { transaction, .. }
        | UdpRequest::Scrape { transaction, .. }) = request;
        *transaction
    }

    fn peers(transaction: u32) -> UdpReply {
        let peers = vec!["10.0.0.1:7".parse().expect("an address")];
        UdpReply::Announce { transaction, interval: 1800, leechers: 1, seeders: 2, peers }
    }

    fn receives(exchange: &mut Exchange, now: Instant, reply: &UdpReply) -> Option<Reply> {
        exchange.received(now, &encode_udp_reply(reply))
    }

    /// Takes it past the connect request, with `id`.
    fn connect(exchange: &mut Exchange, now: Instant, id: u64) {
        let request = sent(exchange, now);
        let UdpRequest::Connect { transaction } = request else { panic!("{request:?}") };
        assert_eq!(receives(exchange, now, &UdpReply::Connect { transaction, connection: id }), None);
    }

    #[test]
    fn it_connects_announces_and_ends() {
        let now = Instant::now();
        let mut exchange = exchange(announce(), 0..2, None);
        connect(&mut exchange, now, 42);
        let request = sent(&mut exchange, now);
        let UdpRequest::Announce { connection: 42, transaction, query, url_data } = request else {
            panic!("{request:?}")
        };
        assert_eq!((query.left, query.event, &url_data[..]), (5, Event::Started, &b"/announce?k=v"[..]));
        let Some(Reply::Announce { interval: 1800, leechers: 1, seeders: 2, peers }) =
            receives(&mut exchange, now, &peers(transaction))
        else {
            panic!("an answer")
        };
        assert_eq!(peers.len(), 1);
        assert_eq!(exchange.connection(), Some(Connection { id: 42, since: now }));
    }

    #[test]
    fn silence_is_met_with_fifteen_seconds_times_two_to_the_n() {
        // T6, and BEP 15's own table.
        let begun = Instant::now();
        let mut exchange = exchange(announce(), 0..9, None);
        let (mut now, mut numbers, mut at) = (begun, Vec::new(), Vec::new());
        loop {
            match exchange.next(now) {
                Step::Send(bytes) => {
                    numbers.push(transaction(&decode_udp_request(&bytes).expect("a request")));
                    at.push((now - begun).as_secs());
                }
                Step::Wait(until) => now = until,
                Step::GiveUp => break,
            }
        }
        assert_eq!(at, [0, 15, 45, 105, 225, 465, 945, 1905, 3825]);
        assert_eq!(now - begun, secs(15 * 511), "the last wait is 3,840 s");
        assert!(numbers.iter().all(|n| *n == numbers[0]), "the same request, so a late reply counts");
        assert_eq!(wait(FIRST, 200), secs(3840));
    }

    #[test]
    fn a_reply_to_the_first_datagram_counts_after_the_second() {
        let now = Instant::now();
        let mut exchange = exchange(announce(), 0..2, None);
        let first = transaction(&sent(&mut exchange, now));
        assert_eq!(exchange.next(now + secs(14)), Step::Wait(now + secs(15)));
        assert_eq!(transaction(&sent(&mut exchange, now + secs(15))), first);
        let late = UdpReply::Connect { transaction: first, connection: 9 };
        assert_eq!(receives(&mut exchange, now + secs(16), &late), None);
        let UdpRequest::Announce { connection: 9, .. } = sent(&mut exchange, now + secs(16)) else {
            panic!("announce")
        };
        // The second attempt goes on: the announce has its 30 s, and no third one.
        assert_eq!(exchange.next(now + secs(16)), Step::Wait(now + secs(46)));
        assert_eq!(exchange.next(now + secs(46)), Step::GiveUp);
    }

    #[test]
    fn what_is_no_reply_is_ignored_and_changes_nothing() {
        // T6: wrong transaction, wrong action, short.
        let now = Instant::now();
        let mut exchange = exchange(announce(), 0..2, None);
        let own = transaction(&sent(&mut exchange, now));
        let wait = Step::Wait(now + secs(15));
        let wrong = [
            UdpReply::Connect { transaction: own ^ 1, connection: 1 },
            UdpReply::Error { transaction: own ^ 1, message: "no".into() },
            peers(own),
            UdpReply::Scrape { transaction: own, entries: vec![ScrapeEntry::default()] },
        ];
        for reply in &wrong {
            assert_eq!(receives(&mut exchange, now, reply), None, "{reply:?}");
            assert_eq!(exchange.next(now), wait);
        }
        let right = encode_udp_reply(&UdpReply::Connect { transaction: own, connection: 5 });
        for n in 0..right.len() {
            assert_eq!(exchange.received(now, &right[..n]), None);
            assert_eq!(exchange.next(now), wait, "{n} bytes");
        }
        assert_eq!(exchange.received(now, &right), None);
        let own = transaction(&sent(&mut exchange, now));
        for reply in [
            UdpReply::Connect { transaction: own, connection: 6 },
            peers(own.wrapping_add(1)),
            UdpReply::Scrape { transaction: own, entries: Vec::new() },
        ] {
            assert_eq!(receives(&mut exchange, now, &reply), None, "{reply:?}");
            assert_eq!(exchange.next(now), wait);
        }
        assert!(receives(&mut exchange, now, &peers(own)).is_some());
    }

    #[test]
    fn numbers_differ_from_one_request_and_one_exchange_to_the_next() {
        let now = Instant::now();
        let mut one = exchange(announce(), 0..2, None);
        let first = transaction(&sent(&mut one, now));
        receives(&mut one, now, &UdpReply::Connect { transaction: first, connection: 1 });
        assert_ne!(transaction(&sent(&mut one, now)), first);
        let mut other = Exchange::new(announce(), false, 0..2, FIRST, None, StdRng::seed_from_u64(8));
        assert_ne!(transaction(&sent(&mut other, now)), first);
    }

    #[test]
    fn a_known_connection_id_is_used_and_renewed_when_the_tracker_objects_or_is_silent() {
        let now = Instant::now();
        let known = Some(Connection { id: 3, since: now });
        let mut objected = exchange(announce(), 0..2, known);
        let request = sent(&mut objected, now);
        let UdpRequest::Announce { connection: 3, transaction, .. } = request else { panic!("{request:?}") };
        let error = |transaction| UdpReply::Error { transaction, message: "Connection ID mismatch".into() };
        assert_eq!(receives(&mut objected, now, &error(transaction)), None);
        connect(&mut objected, now, 4);
        let request = sent(&mut objected, now);
        let UdpRequest::Announce { connection: 4, transaction, .. } = request else { panic!("{request:?}") };
        let refusal = Reply::Refusal("Connection ID mismatch".into());
        assert_eq!(receives(&mut objected, now, &error(transaction)), Some(refusal), "once is enough");

        let mut silent = exchange(announce(), 0..2, known);
        let UdpRequest::Announce { .. } = sent(&mut silent, now) else { panic!("an announce") };
        let UdpRequest::Connect { .. } = sent(&mut silent, now + secs(15)) else { panic!("a connect request") };
        assert_eq!(silent.connection(), None);
    }

    #[test]
    fn a_connection_id_is_not_used_after_a_minute() {
        let now = Instant::now();
        let connection = Connection { id: 3, since: now };
        assert!(connection.is_good(now + secs(59)) && !connection.is_good(now + secs(60)));
        let mut exchange = exchange(announce(), 0..9, None);
        connect(&mut exchange, now, 3);
        // BEP 15's own example: announces at 0, 15 and 45 s, then a connect request.
        for (at, connects) in [(0, false), (15, false), (45, false), (105, true), (225, true)] {
            let request = sent(&mut exchange, now + secs(at));
            assert_eq!(matches!(request, UdpRequest::Connect { .. }), connects, "at {at} s: {request:?}");
        }
    }

    #[test]
    fn a_refusal_is_the_trackers_own_words() {
        let now = Instant::now();
        let mut exchange = exchange(announce(), 0..2, None);
        let transaction = transaction(&sent(&mut exchange, now));
        let error = UdpReply::Error { transaction, message: "go away\u{1b}[31m".into() };
        assert_eq!(receives(&mut exchange, now, &error), Some(Reply::Refusal("go away[31m".into())));
    }

    #[test]
    fn a_scrape_needs_a_figure_for_each_torrent() {
        let now = Instant::now();
        let mut exchange = exchange(Question::Scrape(vec![[1; 20], [2; 20]]), 0..2, None);
        connect(&mut exchange, now, 3);
        let request = sent(&mut exchange, now);
        let UdpRequest::Scrape { connection: 3, transaction, info_hashes } = request else { panic!("{request:?}") };
        assert_eq!(info_hashes, [[1; 20], [2; 20]]);
        let figures = |complete| ScrapeEntry { complete, downloaded: 1, incomplete: 2 };
        let reply = |entries| UdpReply::Scrape { transaction, entries };
        assert_eq!(receives(&mut exchange, now, &reply(vec![figures(1)])), None);
        let end = receives(&mut exchange, now, &reply(vec![figures(1), figures(2), figures(3)]));
        assert_eq!(end, Some(Reply::Scrape(vec![figures(1), figures(2)])));
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_ends_it_but_a_reply(datagrams: Vec<(u8, Vec<u8>)>, connected: bool) {
            let now = Instant::now();
            let known = connected.then_some(Connection { id: 1, since: now });
            let mut exchange = exchange(announce(), 0..2, known);
            sent(&mut exchange, now);
            for (action, rest) in datagrams {
                let datagram = [&[0, 0, 0, action % 5][..], &rest].concat();
                proptest::prop_assert_eq!(exchange.received(now, &datagram), None);
                proptest::prop_assert_eq!(exchange.next(now), Step::Wait(now + FIRST));
            }
        }
    }
}
