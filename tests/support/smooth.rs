//! A seed with a rate that is even down to milliseconds, so that a reader's waits are the swarm's rate and not a rate
//! limiter's bursts; and one that stalls.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use super::peer::{Event, Request, Shared, message, piece_message, request_body};

/// How often bytes leave, times a second.
const STEPS: u64 = 200;
/// What a thread that was woken late may make up for.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Serves at `rate` bytes per second over all connections. A cancelled request is rejected (BEP 6) unless its block is
/// leaving already.
pub(super) fn write(shared: &Shared, stream: &TcpStream, events: &Receiver<Event>, rate: u64) -> io::Result<()> {
    let mut out = stream;
    let step = usize::try_from(rate / STEPS).expect("a rate").max(1);
    let mut unchoked = false;
    let mut waiting: VecDeque<Request> = VecDeque::new();
    // Short messages go between blocks.
    let mut short = Vec::new();
    // The block that is leaving, and how much of it is gone.
    let (mut block, mut gone): (Vec<u8>, usize) = (Vec::new(), 0);
    loop {
        loop {
            let idle = gone == block.len() && waiting.is_empty();
            let event =
                match if idle { events.recv().map_err(|_| TryRecvError::Disconnected) } else { events.try_recv() } {
                    Ok(event) => event,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                };
            match event {
                Event::Interested if !unchoked => {
                    unchoked = true;
                    message(&mut short, 1, &[]);
                }
                Event::Interested => {}
                Event::Request(request) => waiting.push_back(request),
                Event::Cancel(request) => {
                    if let Some(at) = waiting.iter().position(|other| *other == request) {
                        waiting.remove(at);
                        message(&mut short, 16, &request_body(request));
                    }
                }
            }
            if gone == block.len() && !short.is_empty() {
                out.write_all(&std::mem::take(&mut short))?;
            }
        }
        if gone == block.len() {
            out.write_all(&std::mem::take(&mut short))?;
            let Some(request) = waiting.pop_front() else { continue };
            let Some(bytes) = shared.content.block(request.piece, request.begin, request.length) else {
                message(&mut short, 16, &request_body(request));
                continue;
            };
            (block, gone) = (piece_message(request, bytes), 0);
            shared.counts.blocks.fetch_add(1, Ordering::SeqCst);
            shared.counts.bytes.fetch_add(u64::from(request.length), Ordering::SeqCst);
        }
        let now = step.min(block.len() - gone);
        if !shared.take_turn(u64::try_from(now).expect("a length"), rate, CATCH_UP) {
            return Ok(());
        }
        out.write_all(&block[gone..gone + now])?;
        gone += now;
    }
}

/// Unchokes, and says nothing more whatever comes.
pub(super) fn stall(stream: &TcpStream, events: &Receiver<Event>) -> io::Result<()> {
    let mut out = stream;
    let mut unchoked = false;
    for event in events {
        if matches!(event, Event::Interested) && !unchoked {
            unchoked = true;
            let mut bytes = Vec::new();
            message(&mut bytes, 1, &[]);
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}
