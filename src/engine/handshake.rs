//! What two peers say before anything else: the 68-byte handshakes (BEP 3), in and out, with the encryption handshake (MSE)
//! before them where one side wants it. The caller has one deadline for all of it (hardening P7: a peer that trickles
//! bytes is closed by it).

use std::io;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};

use super::stream::Stream;
use crate::config::Encryption;
use crate::wire::Handshake;
use crate::wire::mse::{Agreed, Initiator, MAX_PAD, Methods, Responder};

/// Connected to handshaken, both directions.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of one read: an encryption handshake with the longest pad and whatever goes along.
const READ: usize = 1024;
/// What tells a handshake from an encryption handshake, which begins with a random number, bytes.
const TELLS: usize = 20;

impl Encryption {
    /// What we take of an encryption handshake.
    fn methods(self) -> Methods {
        match self {
            // Sealed payload costs both sides, and who wants it takes nothing else.
            Self::Off | Self::Prefer => Methods::BOTH,
            Self::Require => Methods::RC4,
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: io::Error,
    /// It closed without having said anything that belongs to what we began with: it may know the other beginning.
    pub(super) not_understood: bool,
}

/// We dialled: ours goes first, after an encryption handshake if `encrypt`.
///
/// # Errors
/// The connection's, `InvalidData` if the peer serves another torrent or breaks the protocol.
pub(super) async fn outgoing(
    stream: &mut Stream,
    ours: Handshake,
    encryption: Encryption,
    encrypt: bool,
) -> Result<Handshake, Failure> {
    let (info_hash, hello) = (ours.info_hash, ours.encode());
    let understood = |cause| Failure { cause, not_understood: false };
    if encrypt {
        initiate(stream, info_hash, &hello, encryption.methods()).await?;
    } else {
        stream.write_all(&hello).await.map_err(|cause| Failure { cause, not_understood: true })?;
    }
    let mut bytes = [0; Handshake::LENGTH];
    let mut got = 0;
    while got < bytes.len() {
        match read(stream, &mut bytes[got..]).await {
            Ok(count) => got += count,
            Err(cause) => return Err(Failure { cause, not_understood: !encrypt && got == 0 }),
        }
    }
    let theirs = Handshake::decode(&bytes).map_err(invalid).map_err(understood)?;
    match theirs.info_hash == info_hash {
        true => Ok(theirs),
        false => Err(understood(invalid("it serves another torrent"))),
    }
}

async fn initiate(stream: &mut Stream, torrent: [u8; 20], hello: &[u8], methods: Methods) -> Result<(), Failure> {
    let understood = |cause| Failure { cause, not_understood: false };
    let mut machine = Initiator::new(torrent, methods, hello, &mut random().map_err(understood)?);
    let mut buffer = [0; READ];
    loop {
        let step = async {
            stream.write_all(&machine.output()).await?;
            read(stream, &mut buffer).await
        };
        let count = step.await.map_err(|cause| Failure { cause, not_understood: !machine.has_key() })?;
        if let Some(agreed) = machine.receive(&buffer[..count]).map_err(invalid).map_err(understood)? {
            go_on(stream, agreed);
            return Ok(());
        }
    }
}

/// We were dialled: the peer names the torrent, and gets our handshake if we have it. `unveil` gives the info-hash that an
/// encryption handshake means, `find` the torrent and our handshake for it.
///
/// # Errors
/// As [`outgoing`].
pub(super) async fn incoming<T>(
    stream: &mut Stream,
    encryption: Encryption,
    unveil: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
    find: impl FnOnce(&[u8; 20]) -> Option<(Handshake, T)>,
) -> io::Result<(Handshake, T)> {
    let mut bytes = [0; Handshake::LENGTH];
    let mut got = 0;
    while got < TELLS && Handshake::may_begin(&bytes[..got]) {
        got += read(stream, &mut bytes[got..]).await?;
    }
    let encrypted = !Handshake::may_begin(&bytes[..got]);
    let means = match (encrypted, encryption) {
        (true, Encryption::Off) => return Err(invalid("it is no BitTorrent peer, or one that encrypts")),
        (false, Encryption::Require) => return Err(invalid("it does not encrypt")),
        (true, _) => {
            let means = respond(stream, &bytes[..got], encryption.methods(), unveil).await?;
            got = 0;
            Some(means)
        }
        (false, _) => None,
    };
    while got < bytes.len() {
        got += read(stream, &mut bytes[got..]).await?;
    }
    let theirs = Handshake::decode(&bytes).map_err(invalid)?;
    if means.is_some_and(|means| means != theirs.info_hash) {
        return Err(invalid("it names one torrent in its encryption handshake and another in its handshake"));
    }
    let (ours, torrent) =
        find(&theirs.info_hash).ok_or_else(|| invalid("it asks for a torrent that we do not have"))?;
    stream.write_all(&ours.encode()).await?;
    Ok((theirs, torrent))
}

async fn respond(
    stream: &mut Stream,
    first: &[u8],
    methods: Methods,
    unveil: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
) -> io::Result<[u8; 20]> {
    // An address that uTP shows may be a false one, and its owner would be sent our pad.
    let pad = if stream.is_utp() { 0 } else { MAX_PAD };
    let mut machine = Responder::new(methods, pad, &mut random()?);
    let (mut buffer, mut count) = ([0; READ], first.len());
    buffer[..count].copy_from_slice(first);
    loop {
        let end = machine.receive(&buffer[..count], &unveil).map_err(invalid)?;
        stream.write_all(&machine.output()).await?;
        if let Some(agreed) = end {
            let torrent = agreed.torrent;
            go_on(stream, agreed);
            return Ok(torrent);
        }
        count = read(stream, &mut buffer).await?;
    }
}

/// After the encryption handshake.
fn go_on(stream: &mut Stream, agreed: Agreed) {
    stream.seal(agreed.ciphers);
    stream.put_back(&agreed.ahead);
}

/// A generator that nobody can foresee.
fn random() -> io::Result<StdRng> {
    StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)
}

async fn read(stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closes the connection during the handshake")),
        count => Ok(count),
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
