//! How an address is dialled: over TCP or uTP, whichever is there first, and with or without encryption, until one of the
//! ways is understood.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout, timeout_at};
use tracing::debug;

use super::connect::Target;
use super::handshake::{self, Failure};
use super::shared::Shared;
use super::stream::Stream;
use crate::config::Encryption;
use crate::node::Way;
use crate::wire::Handshake;

/// What the second way to a peer waits for the first, as browsers do between IPv6 and IPv4 (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);
/// What the second way has if the first was refused: a peer that answered at all is no further away.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// As for TCP: a dial that takes longer is of no use to a reader.
const UTP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an address gave no connection.
pub(super) struct Unreached {
    pub(super) cause: io::Error,
    /// Something is there.
    pub(super) answered: bool,
}

/// Dials one address as it was reached before or, if nobody knows, as its network suggests. A peer that closes without
/// having understood is dialled once more at once in each other way: with encryption if that was without, and the other
/// way round, then over uTP if that was TCP (libtorrent accepts and closes where TCP is switched off).
pub(super) async fn reach(
    shared: &Shared,
    target: &Target,
    addr: SocketAddr,
) -> Result<(Stream, Handshake), Unreached> {
    let known = shared.node().way(target.key(), addr);
    let opened = open(shared, addr, known.utp).await;
    let stream = opened.map_err(|cause| Unreached { cause, answered: false })?;
    let shaken = shake(shared, target, addr, stream, known.encrypted, false).await;
    shaken.map_err(|cause| Unreached { cause, answered: true })
}

/// Dials over uTP alone an address that dials us at the same time (BEP 55).
pub(super) async fn punch(shared: &Shared, target: &Target, addr: SocketAddr) -> io::Result<(Stream, Handshake)> {
    let Some(utp) = &shared.utp else { return Err(io::ErrorKind::Unsupported.into()) };
    let known = shared.node().way(target.key(), addr);
    let stream = timeout(UTP_TIMEOUT, utp.connect(addr)).await??.into();
    shake(shared, target, addr, stream, known.encrypted, true).await
}

/// The handshakes over what is open, and over the other ways if it is not understood; over uTP alone if nothing else gets
/// through.
async fn shake(
    shared: &Shared,
    target: &Target,
    addr: SocketAddr,
    mut stream: Stream,
    encrypted_before: bool,
    utp_alone: bool,
) -> io::Result<(Stream, Handshake)> {
    let encryption = shared.config.encryption;
    let mut encrypted = match encryption {
        Encryption::Off => false,
        Encryption::Prefer => encrypted_before,
        Encryption::Require => true,
    };
    let deadline = Instant::now() + handshake::DEADLINE;
    let mut tried = Vec::new();
    loop {
        let way = Way { encrypted, utp: stream.is_utp() };
        tried.push(way);
        let shaken = handshake::outgoing(&mut stream, shared.handshake(target), encryption, encrypted);
        let failure = match timeout_at(deadline.into(), shaken).await {
            Ok(Ok(theirs)) => {
                shared.node().reached(target.key(), addr, way);
                return Ok((stream, theirs));
            }
            Ok(Err(failure)) => failure,
            Err(late) => Failure { cause: late.into(), not_understood: true },
        };
        let flipped = encrypted != (encryption == Encryption::Prefer);
        let others = [(flipped, way.utp), (encrypted, !way.utp), (flipped, !way.utp)];
        let others = others.map(|(encrypted, utp)| Way { encrypted, utp });
        let next = others.into_iter().find(|way| !tried.contains(way) && (way.utp || !utp_alone));
        let next = next.filter(|_| failure.not_understood);
        let Some(next) = next else { return Err(failure.cause) };
        if Instant::now() >= deadline {
            shared.node().reached(target.key(), addr, next);
            return Err(failure.cause);
        }
        debug!(torrent = %target.name(), %addr, ?next, "is dialled once more: {}", failure.cause);
        encrypted = next.encrypted;
        stream = match (&shared.utp, next.utp) {
            (Some(utp), true) => match timeout(AFTER_REFUSAL, utp.connect(addr)).await {
                Ok(Ok(stream)) => stream.into(),
                _ => return Err(failure.cause),
            },
            (None, true) => return Err(failure.cause),
            (_, false) => shared.network.connect(addr).await?.into(),
        };
    }
}

/// Connects over TCP or uTP, whichever is there first. One of them has a head start: TCP, which moves more bytes for the
/// same work, unless it was uTP that worked before.
async fn open(shared: &Shared, addr: SocketAddr, utp_first: bool) -> io::Result<Stream> {
    let tcp = async { shared.network.connect(addr).await.map(Stream::from) };
    let Some(utp) = &shared.utp else { return tcp.await };
    let utp = async { timeout(UTP_TIMEOUT, utp.connect(addr)).await?.map(Stream::from) };
    if utp_first { race(utp, tcp).await } else { race(tcp, utp).await }
}

/// The first that succeeds; the other is dropped. `second` begins after [`HEAD_START`], or as soon as `first` has failed:
/// then it is not waited for as long as it likes.
async fn race<T>(
    first: impl Future<Output = io::Result<T>>,
    second: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::pin!(first, second);
    let refused = tokio::select! {
        opened = &mut first => match opened {
            Ok(stream) => return Ok(stream),
            Err(why) => Some(why),
        },
        () = sleep(HEAD_START) => None,
    };
    let refused = match refused {
        Some(why) => why,
        None => tokio::select! {
            opened = &mut first => match opened {
                Ok(stream) => return Ok(stream),
                Err(why) => why,
            },
            opened = &mut second => return match opened {
                Ok(stream) => Ok(stream),
                Err(_) => first.await,
            },
        },
    };
    // Its reason tells more: who has no uTP does not answer.
    timeout(AFTER_REFUSAL, second).await.ok().and_then(Result::ok).ok_or(refused)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use super::*;

    fn refused<T>(why: &str) -> io::Result<T> {
        Err(io::Error::other(why.to_owned()))
    }

    #[tokio::test]
    async fn the_second_way_is_not_begun_where_the_first_is_there_at_once() {
        let begun = Cell::new(false);
        let second = async {
            begun.set(true);
            Ok("second")
        };
        assert_eq!(race(ready(Ok("first")), second).await.ok(), Some("first"));
        assert!(!begun.get());
    }

    #[tokio::test]
    async fn the_second_way_wins_where_the_first_is_silent_or_refused() {
        assert_eq!(race(pending(), ready(Ok("second"))).await.ok(), Some("second"));
        assert_eq!(race(ready(refused("no")), ready(Ok("second"))).await.ok(), Some("second"));
        // One that fails first does not end the other.
        let late = async {
            sleep(HEAD_START + Duration::from_millis(50)).await;
            Ok("first")
        };
        assert_eq!(race(late, ready(refused("no"))).await.ok(), Some("first"));
    }

    #[tokio::test]
    async fn where_nothing_is_there_the_first_ways_reason_is_told() {
        for second in [refused::<()>("second"), Ok(())] {
            let both = race(ready(refused("first")), async { if second.is_ok() { pending().await } else { second } });
            assert_eq!(both.await.expect_err("nobody is there").to_string(), "first");
        }
    }
}
