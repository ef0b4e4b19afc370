//! What the machine's loopback device can carry: the limit of every client.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use sha1::{Digest, Sha1};

use crate::support::loopback;
use crate::swarm::{PIECE, SEEDS};

/// A block of 16 KiB and what comes before it on the wire.
const MESSAGE: usize = (16 << 10) + 13;
const BLOCKS: usize = (PIECE >> 14) as usize;

/// As many threads as there are seeds push `length` bytes in blocks over loopback TCP; one each reads them into pieces
/// and hashes those. Returns MB/s.
#[allow(clippy::cast_possible_truncation, reason = "pieces are counted in usize")]
pub(crate) fn limit(length: u64) -> f64 {
    let pieces = (length / PIECE) as usize / SEEDS;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SEEDS {
            let listener = TcpListener::bind((loopback(), 0)).expect("a listening socket");
            let address = listener.local_addr().expect("its address");
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                let message = vec![9; MESSAGE];
                for _ in 0..pieces * BLOCKS {
                    stream.write_all(&message).expect("a reader");
                }
            });
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("a connection");
                let mut piece = vec![0; MESSAGE * BLOCKS];
                for _ in 0..pieces {
                    stream.read_exact(&mut piece).expect("a piece");
                    std::hint::black_box(Sha1::digest(&piece));
                }
            });
        }
    });
    (pieces * SEEDS) as f64 * PIECE as f64 / start.elapsed().as_secs_f64() / 1e6
}
