//! The tracker over UDP (BEP 15; the URL of BEP 41 is read and serves any path). A source is verified by a connection id
//! that only a secret of this process can make, so nothing is kept for it; who has none gets no more bytes than it sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::registry::Room;
use super::{Count, Shared, datagram};
use crate::wire::{UdpReply, UdpRequest, decode_udp_request, encode_udp_reply};

/// Seconds of one time slot of connection ids: an id is good in its own and the next (BEP 15 has a client use it for a
/// minute, and a tracker take it for two).
const SLOT: u64 = 60;
/// Peers in a reply, so that no reply is fragmented: 20 + 200 x 6 and 20 + 79 x 18 bytes are under the 1,452 that
/// Ethernet leaves under IPv6.
const ROOM: Room = Room { v4: 200, v6: 79, both: false };
/// The longest request: a scrape of 74 is 1,496 bytes.
const MAX_REQUEST: usize = 2048;
/// Datagrams that are answered before other tasks get a turn.
const BATCH: usize = 64;

/// Makes and checks connection ids: a keyed hash over the source's address and the time slot.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    secret: [u8; 32],
    start: Instant,
}

impl ConnectionIds {
    pub(super) fn new(secret: [u8; 32], start: Instant) -> Self {
        Self { secret, start }
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / SLOT
    }

    /// The port is left out: a NAT may give a client another one for each datagram.
    fn make(&self, ip: IpAddr, slot: u64) -> u64 {
        let ip = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        // All parts are of one length, and most of the hash is kept back: nothing can be added to what was hashed.
        let hash = Sha256::new().chain_update(self.secret).chain_update(slot.to_be_bytes()).chain_update(ip.octets());
        hash.finalize().first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
    }

    fn accepts(&self, id: u64, ip: IpAddr, now: Instant) -> bool {
        let slot = self.slot(now);
        id == self.make(ip, slot) || slot.checked_sub(1).is_some_and(|before| id == self.make(ip, before))
    }
}

/// Answers the socket's datagrams; never ends.
pub(super) async fn serve(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = [0; MAX_REQUEST];
    loop {
        if socket.readable().await.is_err() {
            // The next receive says what is wrong, if it still is.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        for _ in 0..BATCH {
            match socket.try_io(Interest::READABLE, || datagram::receive(&socket, &mut buffer)) {
                Ok(arrived) => {
                    let bytes = buffer.get(..arrived.length).unwrap_or_default();
                    if let Some(reply) = answer(&shared, Instant::now(), arrived.from, bytes) {
                        // A reply that finds no room is lost, as any datagram may be: the client asks again.
                        let _ = socket
                            .try_io(Interest::WRITABLE, || datagram::send(&socket, &reply, arrived.from, arrived.to));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // What an earlier reply ran into.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The reply to a datagram, if it gets one.
fn answer(shared: &Shared, now: Instant, from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let ip = from.ip().to_canonical();
    let request = decode_udp_request(bytes).ok()?;
    let (connection, transaction) = match &request {
        UdpRequest::Connect { transaction } => {
            let connection = shared.ids.make(ip, shared.ids.slot(now));
            return Some(encode_udp_reply(&UdpReply::Connect { transaction: *transaction, connection }));
        }
        UdpRequest::Announce { connection, transaction, .. } | UdpRequest::Scrape { connection, transaction, .. } => {
            (*connection, *transaction)
        }
    };
    if !shared.ids.accepts(connection, ip, now) {
        shared.count(Count::Refused);
        let mut reply = encode_udp_reply(&UdpReply::Error { transaction, message: "connection id expired".to_owned() });
        reply.truncate(bytes.len());
        return Some(reply);
    }
    Some(encode_udp_reply(&match request {
        UdpRequest::Announce { query, .. } => match shared.announce(now, ip, &query, ROOM, Count::Udp) {
            Ok(answer) => UdpReply::Announce {
                transaction,
                interval: u32::try_from(shared.interval.as_secs()).unwrap_or(u32::MAX),
                leechers: answer.incomplete,
                seeders: answer.complete,
                peers: answer.peers.into_iter().map(|(_, addr)| addr).collect(),
            },
            Err(refusal) => UdpReply::Error { transaction, message: refusal.to_string() },
        },
        UdpRequest::Scrape { info_hashes, .. } => {
            shared.count(Count::Scrape);
            let registry = shared.registry();
            let entries = info_hashes.iter().map(|hash| registry.scrape(hash).unwrap_or_default()).collect();
            UdpReply::Scrape { transaction, entries }
        }
        UdpRequest::Connect { .. } => return None,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn connection_ids_are_good_for_one_address_and_two_slots() {
        let start = Instant::now();
        let ids = ConnectionIds::new([7; 32], start);
        let (ip, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let at = |seconds| start + Duration::from_secs(seconds);
        let id = ids.make(ip, ids.slot(at(59)));
        assert!(ids.accepts(id, ip, at(59)) && ids.accepts(id, ip, at(0)) && ids.accepts(id, ip, at(119)));
        assert!(!ids.accepts(id, ip, at(120)), "over two minutes");
        assert!(!ids.accepts(id, other, at(59)), "another address");
        assert!(!ids.accepts(id ^ 1, ip, at(59)) && !ids.accepts(0, ip, at(59)));
        assert!(ids.accepts(id, "::ffff:192.0.2.1".parse().expect("an address"), at(59)), "the same address, mapped");
        assert!(!ConnectionIds::new([8; 32], start).accepts(id, ip, at(59)), "another secret");
    }
}
