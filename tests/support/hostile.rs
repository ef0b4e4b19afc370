//! What peers do to us: the good one, and the ways of being bad that a swarm file system must live with.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::peer::{Event, Request, Shared, handshake, message, piece_message, request_body};
use super::{Random, smooth, wait_until};

const BLOCK: u32 = 16 << 10;

/// How a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Every request at once.
    Good,
    /// Good, and evenly at this many bytes per second.
    Rate(u64),
    /// As `Rate`, in steps of 5 ms, and a request that is cancelled in time costs nothing.
    Smooth(u64),
    /// Unchokes, and says nothing more.
    Stalled,
    /// Nothing until its gate is opened, then good.
    Gated,
    /// One bit of the first block that it sends is flipped; good otherwise, and at this many bytes per second.
    SpoilsOne(u64),
    /// A bit is flipped in this share (per cent) of the blocks, always the same ones.
    SpoilsShare(u8),
    /// Has all, unchokes, never answers.
    Silent,
    /// One byte of a valid answer per second.
    Drips,
    /// Sends what nobody should, as fast as it can.
    Floods(Flood),
    /// One byte of its handshake per second.
    SlowHandshake,
    /// Pieces that were never asked for, with noise in them.
    Unsolicited,
    /// Chokes and unchokes ten times a second, and answers nothing.
    Flaps,
    /// Three good blocks, then half of one, then a reset.
    Resets,
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Valid requests for everything, over and over.
    Requests,
    /// Requests far outside of the torrent.
    WildRequests,
    KeepAlives,
    /// Noise where messages should be.
    Garbage,
    /// A message that says it has 4 GiB.
    HugeMessage,
}

/// Answers what is read from the connection until that ends.
pub(super) fn write(shared: &Shared, stream: &TcpStream, events: &Receiver<Event>) -> io::Result<()> {
    let mut out = stream;
    match shared.behaviour {
        Behaviour::Smooth(rate) => return smooth::write(shared, stream, events, rate),
        Behaviour::Stalled => return smooth::stall(stream, events),
        Behaviour::Floods(kind) => return flood(shared, stream, kind),
        Behaviour::Unsolicited => return unsolicited(shared, stream),
        Behaviour::Flaps => return flap(shared, stream, events),
        _ => {}
    }
    let mut answered = 0;
    let mut unchoked = false;
    let mut waiting: Vec<Request> = Vec::new();
    loop {
        match events.recv_timeout(Duration::from_millis(20)) {
            Ok(Event::Interested) if !unchoked => {
                unchoked = true;
                send(stream, 1, &[])?;
            }
            Ok(Event::Interested) => {}
            Ok(Event::Request(request)) => waiting.push(request),
            Ok(Event::Cancel(request)) => {
                if let Some(at) = waiting.iter().position(|other| *other == request) {
                    waiting.remove(at);
                    // BEP 6: a cancelled request is answered, by a block or by a reject.
                    send(stream, 16, &request_body(request))?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let held = match shared.behaviour {
            Behaviour::Silent => true,
            Behaviour::Gated => !shared.gate.load(Ordering::SeqCst),
            _ => false,
        };
        if held {
            continue;
        }
        for request in waiting.drain(..) {
            let Some(block) = shared.content.block(request.piece, request.begin, request.length) else {
                send(stream, 16, &request_body(request))?;
                continue;
            };
            let mut block = block.to_vec();
            let stays = match shared.behaviour {
                Behaviour::Rate(rate) | Behaviour::SpoilsOne(rate) => {
                    shared.take_turn(u64::from(request.length), rate, Duration::ZERO)
                }
                _ => true,
            };
            if !stays {
                return Ok(());
            }
            match shared.behaviour {
                Behaviour::Drips => return drip(shared, stream, &piece_message(request, &block)),
                Behaviour::Resets if answered == 3 => {
                    let whole = piece_message(request, &block);
                    out.write_all(&whole[..whole.len() / 2])?;
                    return reset(stream);
                }
                _ => {}
            }
            if spoils(shared, request) {
                // Counted before it leaves: a test that sees its effect sees the count.
                shared.counts.spoiled.fetch_add(1, Ordering::SeqCst);
                let at = block.len() / 2;
                block[at] ^= 0x10;
            }
            shared.counts.blocks.fetch_add(1, Ordering::SeqCst);
            shared.counts.bytes.fetch_add(u64::from(request.length), Ordering::SeqCst);
            out.write_all(&piece_message(request, &block))?;
            answered += 1;
        }
    }
}

fn spoils(shared: &Shared, request: Request) -> bool {
    match shared.behaviour {
        Behaviour::SpoilsOne(_) => shared.counts.spoiled.load(Ordering::SeqCst) == 0,
        Behaviour::SpoilsShare(percent) => {
            let block = u64::from(request.piece) << 32 | u64::from(request.begin / BLOCK);
            Random::new(block).next() % 100 < u64::from(percent)
        }
        _ => false,
    }
}

fn send(mut out: &TcpStream, id: u8, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::new();
    message(&mut bytes, id, body);
    out.write_all(&bytes)
}

fn drip(shared: &Shared, mut out: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        out.write_all(&[*byte])?;
        if !shared.pause(Duration::from_secs(1)) {
            break;
        }
    }
    Ok(())
}

pub(super) fn drip_handshake(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    drip(shared, stream, &handshake(&shared.content.torrent.info_hash))
}

/// Ends the connection with RST.
fn reset(stream: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    // Our own twin handles keep the socket open: dissolving the association is what sends the RST.
    // SAFETY: `sockaddr` is plain data, for which all zeroes is a value; the descriptor is open.
    let done = unsafe {
        let mut nowhere: libc::sockaddr = std::mem::zeroed();
        nowhere.sa_family = u16::try_from(libc::AF_UNSPEC).expect("a family");
        let size = u32::try_from(size_of::<libc::sockaddr>()).expect("a size");
        libc::connect(std::os::fd::AsRawFd::as_raw_fd(stream), &raw const nowhere, size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn flood(shared: &Shared, mut out: &TcpStream, kind: Flood) -> io::Result<()> {
    send(out, 1, &[])?;
    send(out, 2, &[])?;
    let mut random = Random::new(9);
    let pieces =
        u32::try_from(shared.content.torrent.length / shared.content.torrent.piece_length).expect("few pieces");
    loop {
        let mut batch = Vec::with_capacity(32 << 10);
        for n in 0..1000_u32 {
            match kind {
                Flood::Requests => {
                    let piece = u32::try_from(random.below(u64::from(pieces.max(1)))).expect("a piece");
                    message(&mut batch, 6, &request_body(Request { piece, begin: 0, length: BLOCK }));
                }
                Flood::WildRequests => {
                    let request = Request { piece: u32::MAX - n, begin: 1 << 31, length: 1 << 31 };
                    message(&mut batch, 6, &request_body(request));
                }
                Flood::KeepAlives => batch.extend_from_slice(&[0; 4]),
                Flood::Garbage => {
                    let mut noise = [0; 32];
                    random.fill(&mut noise);
                    batch.extend_from_slice(&noise);
                }
                Flood::HugeMessage => {
                    batch.extend_from_slice(&[0xff; 4]);
                    batch.extend_from_slice(&[7; 64]);
                }
            }
        }
        out.write_all(&batch)?;
        if shared.is_stopping() {
            return Ok(());
        }
    }
}

fn unsolicited(shared: &Shared, mut out: &TcpStream) -> io::Result<()> {
    send(out, 1, &[])?;
    let mut random = Random::new(10);
    let pieces = shared.content.torrent.length / shared.content.torrent.piece_length;
    let mut noise = vec![0; 16 << 10];
    loop {
        random.fill(&mut noise);
        let piece = u32::try_from(random.below(pieces.max(1))).expect("a piece");
        out.write_all(&piece_message(Request { piece, begin: 0, length: BLOCK }, &noise))?;
        if !shared.pause(Duration::from_millis(20)) {
            return Ok(());
        }
    }
}

fn flap(shared: &Shared, stream: &TcpStream, events: &Receiver<Event>) -> io::Result<()> {
    loop {
        for id in [1, 0] {
            send(stream, id, &[])?;
            while let Ok(event) = events.try_recv() {
                if let Event::Request(request) = event {
                    send(stream, 16, &request_body(request))?;
                }
            }
            if !shared.pause(Duration::from_millis(50)) {
                return Ok(());
            }
        }
    }
}

/// Waits until a peer has been spoken to, so that a test of a bad peer is one.
#[track_caller]
pub(crate) fn wait_for_contact(peer: &super::peer::Peer) {
    wait_until(Duration::from_secs(5), "the peer is connected to", || peer.count(|c| &c.connections) > 0);
}
