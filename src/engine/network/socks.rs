//! Connections through a SOCKS5 proxy. There is no other way then: where the proxy does not answer, nothing is connected.

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{self, AtomicBool};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_socks::Error;
use tokio_socks::tcp::Socks5Stream;
use tracing::{info, warn};

use super::Network;
use crate::proxy::Proxy;

/// What a proxy has to reach a peer: it may be several hops away from both.
const REACH_TIMEOUT: Duration = Duration::from_secs(15);

/// A proxy, and whether it works.
pub(super) struct Socks {
    proxy: Proxy,
    /// The same for HTTP.
    http: reqwest::Proxy,
    /// The user knows that it does not.
    failing: AtomicBool,
    /// It has spoken SOCKS with us.
    answered: AtomicBool,
}

/// Who failed.
enum Failure {
    Proxy(io::Error),
    /// The proxy works and says what became of its own attempt.
    Peer(io::Error),
}

impl Socks {
    pub(super) fn new(proxy: Proxy) -> crate::Result<Self> {
        let http = reqwest::Proxy::all(proxy.url());
        // It may not say why: that could name what is secret.
        let http =
            http.map_err(|_| crate::Error::System { what: "use the proxy", cause: io::ErrorKind::InvalidInput.into() });
        Ok(Self { http: http?, proxy, failing: AtomicBool::default(), answered: AtomicBool::default() })
    }

    pub(super) fn port(&self) -> u16 {
        self.proxy.port()
    }

    /// True if this is the proxy's host.
    pub(super) fn is_at(&self, host: &str) -> bool {
        self.proxy.host().eq_ignore_ascii_case(host)
    }

    pub(super) fn for_http(&self) -> reqwest::Proxy {
        self.http.clone()
    }

    /// Connects to a peer. The user hears once of a proxy that does not work.
    pub(super) async fn connect(&self, network: &Network, peer: SocketAddr) -> io::Result<TcpStream> {
        match self.reach(network, peer).await {
            Err(Failure::Proxy(cause)) => {
                if !self.failing.swap(true, atomic::Ordering::Relaxed) {
                    warn!("the proxy {self} does not work, and without it no peer is reached: {cause}");
                }
                Err(io::Error::new(cause.kind(), format!("the proxy {self}: {cause}")))
            }
            reached => {
                self.answered.store(true, atomic::Ordering::Relaxed);
                if self.failing.swap(false, atomic::Ordering::Relaxed) {
                    info!("the proxy {self} works again");
                }
                match reached {
                    Ok(stream) => Ok(stream),
                    Err(Failure::Peer(cause) | Failure::Proxy(cause)) => Err(cause),
                }
            }
        }
    }

    async fn reach(&self, network: &Network, peer: SocketAddr) -> Result<TcpStream, Failure> {
        let stream = self.open(network).await.map_err(Failure::Proxy)?;
        let tunnel = async {
            match self.proxy.credentials() {
                Some((user, password)) => {
                    Socks5Stream::connect_with_password_and_socket(stream, peer, user, password).await
                }
                None => Socks5Stream::connect_with_socket(stream, peer).await,
            }
        };
        match timeout(REACH_TIMEOUT, tunnel).await {
            Ok(Ok(stream)) => Ok(stream.into_inner()),
            Ok(Err(e)) => Err(failure(e)),
            // It waited for the peer, unless it never says a word.
            Err(late) if self.answered.load(atomic::Ordering::Relaxed) => Err(Failure::Peer(late.into())),
            Err(late) => {
                let why = format!("it does not answer within {REACH_TIMEOUT:?}");
                Err(Failure::Proxy(io::Error::new(io::Error::from(late).kind(), why)))
            }
        }
    }

    /// A connection to the proxy, at the first of its addresses that takes one.
    async fn open(&self, network: &Network) -> io::Result<TcpStream> {
        let host = self.proxy.host();
        let addrs = match host.parse() {
            Ok(ip) => vec![SocketAddr::new(ip, self.proxy.port())],
            Err(_) => timeout(super::CONNECT_TIMEOUT, network.resolve(host, self.proxy.port())).await??,
        };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for addr in addrs {
            match network.connect_direct(addr).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }
}

/// What the proxy says of a peer is no failure of its own.
fn failure(error: Error) -> Failure {
    let kind = match error {
        Error::ConnectionRefused => io::ErrorKind::ConnectionRefused,
        Error::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
        Error::HostUnreachable => io::ErrorKind::HostUnreachable,
        Error::TtlExpired => io::ErrorKind::TimedOut,
        Error::ConnectionNotAllowedByRuleset => io::ErrorKind::PermissionDenied,
        Error::GeneralSocksServerFailure | Error::AddressTypeNotSupported => io::ErrorKind::Other,
        Error::Io(cause) => return Failure::Proxy(cause),
        Error::NoAcceptableAuthMethods => {
            return Failure::Proxy(io::Error::other("it does not let us in this way: does it want a user name?"));
        }
        Error::PasswordAuthFailure(_) => {
            return Failure::Proxy(io::Error::other("it does not take our user name and password"));
        }
        other => return Failure::Proxy(io::Error::other(format!("it does not speak SOCKS5: {other}"))),
    };
    Failure::Peer(io::Error::new(kind, format!("the proxy says: {error}")))
}

impl PartialEq for Socks {
    fn eq(&self, other: &Self) -> bool {
        self.proxy == other.proxy
    }
}

impl Eq for Socks {}

impl PartialOrd for Socks {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Socks {
    fn cmp(&self, other: &Self) -> Ordering {
        self.proxy.cmp(&other.proxy)
    }
}

impl fmt::Display for Socks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.proxy.fmt(f)
    }
}

impl fmt::Debug for Socks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.proxy.fmt(f)
    }
}
