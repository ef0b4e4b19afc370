//! The two 68-byte handshakes, in and out, under one deadline (hardening P7: a peer that trickles bytes is closed by it).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::{Handshake, PeerId};

/// Connected to handshaken, both directions.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// We dialled: ours goes first.
///
/// # Errors
/// The socket's, the deadline's, or `InvalidData` if the peer serves another torrent.
pub(super) async fn outgoing(stream: &mut TcpStream, info_hash: [u8; 20], ours: PeerId) -> io::Result<Handshake> {
    tokio::time::timeout(DEADLINE, async {
        stream.write_all(&Handshake::ours(info_hash, ours).encode()).await?;
        let theirs = read(stream).await?;
        if theirs.info_hash == info_hash { Ok(theirs) } else { Err(invalid("it serves another torrent")) }
    })
    .await?
}

/// We were dialled: the peer names the torrent, and gets our handshake if we have it.
///
/// # Errors
/// As [`outgoing`].
pub(super) async fn incoming<T>(
    stream: &mut TcpStream,
    ours: PeerId,
    find: impl FnOnce(&[u8; 20]) -> Option<T>,
) -> io::Result<(Handshake, T)> {
    tokio::time::timeout(DEADLINE, async {
        let theirs = read(stream).await?;
        let torrent = find(&theirs.info_hash).ok_or_else(|| invalid("it asks for a torrent that we do not have"))?;
        stream.write_all(&Handshake::ours(theirs.info_hash, ours).encode()).await?;
        Ok((theirs, torrent))
    })
    .await?
}

async fn read(stream: &mut TcpStream) -> io::Result<Handshake> {
    let mut bytes = [0; Handshake::LENGTH];
    stream.read_exact(&mut bytes).await?;
    Handshake::decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
