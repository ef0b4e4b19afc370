//! HTTP connections under limits: each request must have come, and its answer gone, within a time; there are so many
//! connections at the most, and one more ends the oldest. An announce takes milliseconds, so what is oldest is idle or
//! slow on purpose, and those who open many connections and do nothing push out each other.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// Bytes that may come before an answer: 74 escaped info-hashes are under 6,000, browsers send a few thousand.
const MAX_REQUEST: usize = 16 << 10;

/// The open connections of all listeners.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Open>,
    most: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// A connection ends when its sender is gone.
    ends: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Connections {
    /// `most` connections, each with `patience` for a request and its answer.
    pub(super) fn new(most: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), most, patience })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, stream: TcpStream) -> Connection {
        let (end, ended) = oneshot::channel();
        let mut open = self.open();
        while open.ends.len() >= self.most.max(1) {
            open.ends.pop_first();
        }
        let number = open.next;
        open.next += 1;
        open.ends.insert(number, end);
        drop(open);
        Connection {
            stream,
            ended: Some(ended),
            deadline: Box::pin(tokio::time::sleep(self.patience)),
            unanswered: 0,
            number,
            connections: Arc::clone(self),
        }
    }

    /// Ends all connections.
    pub(super) fn end_all(&self) {
        self.open().ends.clear();
    }
}

/// A listener whose connections keep to the limits.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) listener: TcpListener,
    pub(super) connections: Arc<Connections>,
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    // An answer is one write: nothing is gained by waiting for more.
                    let _ = stream.set_nodelay(true);
                    return (self.connections.admit(stream), from);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    // No descriptors, most likely: the oldest connection gives one back.
                    self.connections.open().ends.pop_first();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// `None` once it has to end.
    ended: Option<oneshot::Receiver<()>>,
    deadline: Pin<Box<Sleep>>,
    /// Bytes that have come since the last answer.
    unanswered: usize,
    number: u64,
    connections: Arc<Connections>,
}

impl Connection {
    /// Fails when the connection has to end, and wakes its task when it will have to.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().is_none_or(|ended| Pin::new(ended).poll(cx).is_ready()) {
            self.ended = None;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open().ends.remove(&self.number);
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        if this.unanswered > MAX_REQUEST {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.unanswered += buffer.filled().len().saturating_sub(before);
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if matches!(result, Poll::Ready(Ok(1..))) {
            this.unanswered = 0;
            this.deadline.as_mut().reset(Instant::now() + this.connections.patience);
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
