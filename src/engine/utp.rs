//! uTP (BEP 29): connections over datagrams, on the port number where we listen for TCP. librqbit-utp runs the protocol;
//! here are the socket below it and the bounds around it.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use librqbit_dualstack_sockets::PollSendToVectored;
use librqbit_utp::{SocketOpts, Transport, UtpSocket, UtpSocketUdp, UtpStream};
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::network::Network;
use crate::node::canonical;

/// Bytes that one connection may have under way to us, and that are held for a task that does not read: a peer 50 ms away
/// can send 10 MB/s. The library counts what comes out of order by the datagram, a thousand of them. With less, a sender
/// that is faster than we are for a moment waits for half a second too often (libtorrent's least timeout).
const WINDOW: usize = 512 << 10;
/// The longest datagram that is taken, bytes: what an Ethernet carries. Longer ones, in pieces, would fill more memory than
/// [`WINDOW`] says.
const LONGEST: usize = 1500;
/// Bytes of a header (BEP 29), and where in it the window is that the other side has for us.
const HEADER: usize = 20;
const THEIR_WINDOW: Range<usize> = 12..16;
/// What that window is at the least: the library waits for ever, and with all that it holds, for one of 0 to open. What is
/// not taken then counts as lost.
const LEAST_WINDOW: u32 = 1500;
/// Bytes that one connection may have under way from us.
const UNACKNOWLEDGED: usize = 1 << 20;
/// Bytes that the kernel is asked to hold for all connections until we read them; it gives what it is allowed to.
const KERNEL: usize = 4 << 20;
/// Connections besides those of peers: dials and strangers' handshakes.
const UNDER_WAY: usize = 128;
/// The library sends its first datagram once. When we send another.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];
/// The maximum of datagrams that were lost one after the other until a connection is given up.
const LOST: usize = 6;
/// How long a connection may say nothing: peers need not say more than a keep-alive every two minutes. What we sent and
/// nobody answers ends it sooner, by [`LOST`].
const SILENT: Duration = Duration::from_secs(150);

/// The uTP side of a session; ends when dropped.
pub(super) struct Utp {
    socket: Arc<UtpSocket<Datagrams, Environment>>,
    /// What is below it.
    datagrams: Arc<UdpSocket>,
    stop: Box<dyn Fn() + Send + Sync>,
}

/// The library's clock and chance, which it does not name.
type Environment = <UtpSocketUdp as HasEnvironment>::Environment;
trait HasEnvironment {
    type Environment;
}
impl<T, E> HasEnvironment for UtpSocket<T, E> {
    type Environment = E;
}

impl Drop for Utp {
    fn drop(&mut self) {
        (self.stop)();
    }
}

impl Utp {
    /// Takes uTP connections at this address, for a session with so many peers.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn open(network: &Network, addr: SocketAddr, max_peers: usize) -> io::Result<Self> {
        let socket = Arc::new(network.datagrams(addr)?);
        // Beyond the system's limit if we may.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, KERNEL).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, KERNEL)?;
        }
        let options = SocketOpts {
            vsock_rx_bufsize_bytes: NonZeroUsize::new(WINDOW),
            vsock_tx_bufsize_bytes_max: NonZeroUsize::new(UNACKNOWLEDGED),
            // Requests are small and must not wait for each other.
            disable_nagle: true,
            max_live_vsocks: NonZeroUsize::new(max_peers + UNDER_WAY),
            max_retransmissions: NonZeroUsize::new(LOST),
            remote_inactivity_timeout: Some(SILENT),
            dont_wait_for_lastack: true,
            ..SocketOpts::default()
        };
        let token = options.cancellation_token.clone();
        let stop = Box::new(move || token.cancel());
        let transport = Datagrams { v6: addr.is_ipv6(), addr, socket: Arc::clone(&socket) };
        let datagrams = socket;
        let socket = UtpSocket::new_with_opts(transport, Environment::default(), options).map_err(io::Error::other)?;
        Ok(Self { socket, datagrams, stop })
    }

    /// The interface has come back as another one: binds the socket to that.
    ///
    /// # Errors
    /// The system's: only root may.
    pub(super) fn bind_again(&self, network: &Network) -> io::Result<()> {
        network.bind_again(SockRef::from(&*self.datagrams))
    }

    /// The next connection that somebody opens to us.
    ///
    /// # Errors
    /// There will be none any more.
    pub(super) async fn accept(&self) -> io::Result<(UtpStream, SocketAddr)> {
        let stream = self.socket.accept().await.map_err(io::Error::other)?;
        let addr = stream.remote_addr();
        Ok((stream, addr))
    }

    /// Connects to a peer. There is no deadline: an address without uTP does not answer.
    ///
    /// # Errors
    /// The socket's.
    pub(super) async fn connect(&self, peer: SocketAddr) -> io::Result<UtpStream> {
        let begin = || self.socket.connect(peer);
        let (first, second, third) = (begin(), async { (sleep(AGAIN[0]).await, begin().await).1 }, async {
            (sleep(AGAIN[1]).await, begin().await).1
        });
        let stream = tokio::select! {
            stream = first => stream,
            stream = second => stream,
            stream = third => stream,
        };
        stream.map_err(io::Error::other)
    }
}

/// The socket. What goes wrong on it is one datagram's matter, never the end of all connections.
struct Datagrams {
    socket: Arc<UdpSocket>,
    addr: SocketAddr,
    /// It speaks to addresses of IPv4 as `::ffff:a.b.c.d`.
    v6: bool,
}

impl Datagrams {
    fn to(&self, target: SocketAddr) -> SocketAddr {
        match target.ip() {
            IpAddr::V4(ip) if self.v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), target.port()),
            _ => target,
        }
    }
}

/// A send that fails loses its datagram, as the network may; only one that is too long has to be known.
fn sent(sent: io::Result<usize>, length: usize) -> io::Result<usize> {
    match sent {
        Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => Err(e),
        _ => Ok(length),
    }
}

/// False for a datagram that the library is not shown; others are made harmless.
fn admit(datagram: &mut [u8]) -> bool {
    if datagram.len() > LONGEST {
        return false;
    }
    if let Some(window) = datagram.get_mut(..HEADER).and_then(|header| header[THEIR_WINDOW].first_chunk_mut()) {
        *window = u32::from_be_bytes(*window).max(LEAST_WINDOW).to_be_bytes();
    }
    true
}

impl PollSendToVectored for Datagrams {
    fn poll_send_to_vectored(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        Poll::Ready(sent(ready!(self.socket.poll_send_to_vectored(cx, parts, self.to(target))), length))
    }
}

impl Transport for Datagrams {
    async fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> io::Result<(usize, SocketAddr)> {
        std::future::poll_fn(|cx| {
            loop {
                let mut read = ReadBuf::new(buffer);
                // What an ICMP message makes of an earlier datagram is no end.
                if let Ok(from) = ready!(self.socket.poll_recv_from(cx, &mut read))
                    && admit(read.filled_mut())
                {
                    return Poll::Ready(Ok((read.filled().len(), canonical(from))));
                }
            }
        })
        .await
    }

    async fn send_to<'a>(&'a self, bytes: &'a [u8], target: SocketAddr) -> io::Result<usize> {
        sent(self.socket.send_to(bytes, self.to(target)).await, bytes.len())
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        Poll::Ready(sent(ready!(self.socket.poll_send_to(cx, bytes, self.to(target))), bytes.len()))
    }

    fn bind_addr(&self) -> SocketAddr {
        self.addr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_shut_and_datagrams_without_end_are_kept_from_the_library() {
        let datagram = |window: u32, length: usize| {
            let mut bytes = vec![0x21; length];
            bytes[THEIR_WINDOW].copy_from_slice(&window.to_be_bytes());
            bytes
        };
        for (window, seen) in [(0, LEAST_WINDOW), (1, LEAST_WINDOW), (1500, 1500), (1 << 20, 1 << 20)] {
            let mut bytes = datagram(window, 40);
            assert!(admit(&mut bytes));
            assert_eq!(bytes, datagram(seen, 40), "nothing else changes");
        }
        assert!(admit(&mut datagram(9000, LONGEST)) && !admit(&mut datagram(9000, LONGEST + 1)));
        for short in 0..HEADER {
            assert!(admit(&mut vec![0; short]), "the library knows what to do with {short} bytes");
        }
    }
}
