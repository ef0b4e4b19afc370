//! What carries the bytes of one peer: TCP or uTP, in the clear or sealed (MSE). Reads and writes are tried, never waited
//! for, as on a socket; [`Stream::ready`] waits. TCP in the clear is the socket itself: nothing is copied or kept.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use librqbit_utp::UtpStream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::wire::mse::Cipher;

/// Bytes that are sealed for one write: four blocks. Sealed bytes must go out as they are, so what a socket does not take
/// is held for the connection, and this bounds it.
const SEALED: usize = 64 * 1024;
/// Bytes that a full uTP connection takes over, to be woken when there is room: it is asked by writing.
const HELD: usize = 1024;

thread_local! {
    /// Where bytes are sealed: it belongs to the worker, not to the connection.
    static SEAL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection to a peer.
pub(super) struct Stream {
    wire: Wire,
    /// What seals and opens; none: nothing does.
    ciphers: Option<Box<(Cipher, Cipher)>>,
    /// What was read before it was asked for, opened.
    ahead: Vec<u8>,
    /// What was taken to be written and is not on the wire: sealed if anything is.
    unsent: Vec<u8>,
}

enum Wire {
    Tcp(TcpStream),
    Utp(Box<UtpStream>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::over(Wire::Tcp(stream))
    }
}

impl From<UtpStream> for Stream {
    fn from(stream: UtpStream) -> Self {
        Self::over(Wire::Utp(Box::new(stream)))
    }
}

impl Stream {
    fn over(wire: Wire) -> Self {
        Self { wire, ciphers: None, ahead: Vec::new(), unsent: Vec::new() }
    }

    pub(super) fn is_utp(&self) -> bool {
        matches!(self.wire, Wire::Utp(_))
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.ciphers.is_some()
    }

    /// From now on these seal and open.
    pub(super) fn seal(&mut self, ciphers: Option<(Cipher, Cipher)>) {
        self.ciphers = ciphers.map(Box::new);
    }

    /// Gives back what was read too far; it is read again, and is opened already.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.ahead.splice(0..0, bytes.iter().copied());
    }

    /// True while something that was taken to be written is not on the wire.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Makes the kernel acknowledge at once what came. uTP has a clock of its own for that.
    pub(super) fn acknowledge(&self) {
        if let Wire::Tcp(stream) = &self.wire {
            // Only makes it sooner.
            let _ = SockRef::from(stream).set_tcp_quickack(true);
        }
    }

    /// Waits until there is something to read (true) or room to write (false), of what is asked for.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn ready(&mut self, reads: bool, writes: bool) -> io::Result<bool> {
        if reads && !self.ahead.is_empty() {
            return Ok(true);
        }
        match &mut self.wire {
            Wire::Tcp(stream) => {
                let interest = match (reads, writes) {
                    (true, true) => Interest::READABLE | Interest::WRITABLE,
                    (true, false) => Interest::READABLE,
                    (false, _) => Interest::WRITABLE,
                };
                Ok(stream.ready(interest).await?.is_readable())
            }
            Wire::Utp(stream) => {
                let (ahead, unsent, ciphers) = (&mut self.ahead, &mut self.unsent, &mut self.ciphers);
                std::future::poll_fn(|cx| {
                    // There is no asking but by reading.
                    if reads && let Poll::Ready(read) = poll_read(stream, cx, &mut [0]) {
                        return Poll::Ready(read.map(|(count, mut byte)| {
                            if count > 0 {
                                ciphers.iter_mut().for_each(|ciphers| ciphers.1.apply(&mut byte));
                                ahead.extend_from_slice(&byte);
                            }
                            true
                        }));
                    }
                    match writes.then(|| Pin::new(&mut **stream).poll_write(cx, unsent)) {
                        _ if writes && unsent.is_empty() => Poll::Ready(Ok(false)),
                        Some(Poll::Ready(wrote)) => Poll::Ready(wrote.map(|count| {
                            unsent.drain(..count);
                            false
                        })),
                        _ => Poll::Pending,
                    }
                })
                .await
            }
        }
    }

    /// Reads what is there. 0: the other side has closed.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing, and those of the connection.
    pub(super) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let before = self.ahead.len().min(buffer.len());
        if before > 0 {
            buffer[..before].copy_from_slice(&self.ahead[..before]);
            self.ahead.drain(..before);
            if before == buffer.len() {
                return Ok(before);
            }
        }
        match self.wire.try_read(&mut buffer[before..]) {
            Ok(count) => {
                if let Some(ciphers) = &mut self.ciphers {
                    ciphers.1.apply(&mut buffer[before..before + count]);
                }
                Ok(before + count)
            }
            // Whatever it is comes again.
            Err(_) if before > 0 => Ok(before),
            Err(e) => Err(e),
        }
    }

    /// Writes from the front of `slices` what there is room for. What it returns is taken: it may still have to be
    /// written, see [`Stream::has_unsent`]; with nothing to write it goes on with that.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room, and those of the connection.
    pub(super) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let (Wire::Tcp(stream), None) = (&self.wire, &self.ciphers) {
            return stream.try_write_vectored(slices);
        }
        if !self.unsent.is_empty() {
            let count = self.wire.try_write(&self.unsent)?;
            self.unsent.drain(..count);
            if !self.unsent.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.unsent.shrink_to(HELD);
        }
        match &mut self.ciphers {
            Some(ciphers) => SEAL.with_borrow_mut(|sealed| {
                sealed.clear();
                for slice in slices {
                    let room = SEALED - sealed.len();
                    sealed.extend_from_slice(slice.get(..room).unwrap_or(slice));
                }
                ciphers.0.apply(sealed);
                let count = match self.wire.try_write(sealed) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    wrote => wrote?,
                };
                self.unsent.extend_from_slice(&sealed[count..]);
                Ok(sealed.len())
            }),
            None => {
                let mut taken = 0;
                for slice in slices {
                    let count = match self.wire.try_write(slice) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                        wrote => wrote?,
                    };
                    taken += count;
                    if count < slice.len() {
                        let held = &slice[count..slice.len().min(count + HELD)];
                        self.unsent.extend_from_slice(held);
                        return Ok(taken + held.len());
                    }
                }
                Ok(taken)
            }
        }
    }

    /// Waits for bytes and reads them. 0: the other side has closed.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(true, false).await?,
                read => return read,
            };
        }
    }

    /// Waits until all of it is on the wire.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || self.has_unsent() {
            match self.try_write_vectored(&[IoSlice::new(bytes)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => drop(self.ready(false, true).await?),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Wire {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Utp(stream) => {
                let mut buffer = ReadBuf::new(buffer);
                match Pin::new(&mut **stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                    Poll::Ready(read) => read.map(|()| buffer.filled().len()),
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Utp(stream) => {
                let mut taken = 0;
                // It says Pending after every few KiB, too, so that other tasks have a turn: ours take turns anyway.
                let mut again = true;
                while taken < bytes.len() {
                    let mut context = Context::from_waker(Waker::noop());
                    match Pin::new(&mut **stream).poll_write(&mut context, &bytes[taken..]) {
                        Poll::Ready(wrote) => {
                            taken += wrote?;
                            again = true;
                        }
                        Poll::Pending if std::mem::take(&mut again) => {}
                        Poll::Pending if taken == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                        Poll::Pending => break,
                    }
                }
                Ok(taken)
            }
        }
    }
}

/// Reads one byte.
fn poll_read(stream: &mut UtpStream, cx: &mut Context<'_>, byte: &mut [u8; 1]) -> Poll<io::Result<(usize, [u8; 1])>> {
    let mut buffer = ReadBuf::new(byte);
    Pin::new(stream).poll_read(cx, &mut buffer).map(|read| read.map(|()| buffer.filled().len())).map(|read| {
        let count = read?;
        Ok((count, *byte))
    })
}
