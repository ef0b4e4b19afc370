//! HTTP(S) for what strangers' URLs name: trackers, web seeds, .torrent files. Redirects are our own, every address is
//! checked before a connection is made to it, every wait is under a deadline, every body is capped by who reads it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::{Deref, Range};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Response, header};
use tokio::time::timeout;
use url::{Host, Url};

use super::network::Network;
use super::reach::{BLOCKED_TARGET, LOCAL_TARGET, Place, Purpose, Reach, lookup, refusal};

/// The most redirects of one request.
pub(super) const MAX_REDIRECTS: usize = 5;
/// Connections to a web seed that are kept while none of its ranges is asked for: as many as one may have.
const KEPT: usize = 3;
/// And for how long (anacrolix's number).
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Why nothing came from a URL. None of them names it: it may hold a passkey.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A deadline is over.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The network's or the resolver's own words.
    #[error("{0}")]
    Transfer(String),
    /// An HTTP status without what was asked for.
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    /// A loop, most likely.
    #[error("it redirects more than {MAX_REDIRECTS} times")]
    Redirects,
    /// Not asked at all, or no further.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// So many bytes are the most that is taken.
    #[error("its answer is longer than {} MiB", _0 >> 20)]
    TooLong(usize),
}

/// How long a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Patience {
    /// To resolve its name and to connect.
    pub(super) connect: Duration,
    /// To send the head of its answer once it is connected, and then whatever is next.
    pub(super) receive: Duration,
}

/// Where a request goes: a URL, and the places that it may reach.
#[derive(Clone, Debug)]
pub(super) struct Target {
    url: Url,
    reach: Reach,
    /// Only addresses of IPv4, or of IPv6.
    v4: Option<bool>,
}

impl Target {
    /// A URL that was given.
    pub(super) fn given(purpose: Purpose, url: &str) -> Result<Self, FetchError> {
        Self::made(purpose, url, url)
    }

    /// A URL that was made from one that was given: it reaches as far as that one.
    pub(super) fn made(purpose: Purpose, given: &str, url: &str) -> Result<Self, FetchError> {
        let parse = |url| Url::parse(url).map_err(|_| FetchError::Refused("it is not a URL"));
        let (given, url) = (parse(given)?, parse(url)?);
        match refusal(&url) {
            Some(why) => Err(FetchError::Refused(why)),
            None => Ok(Self { reach: Reach::given(purpose, &given), url, v4: None }),
        }
    }

    /// The same by each family that its name has addresses of and that we have, where there are both; else the same.
    pub(super) async fn of_families(self, network: &Network) -> Vec<Self> {
        let Some(name) = self.url.domain().filter(|_| network.is_direct()) else { return vec![self] };
        let found = lookup(network, name, 0, self.reach).await.unwrap_or_default();
        let has = |v4: bool| network.local(v4).is_some() && found.iter().any(|addr| addr.is_ipv4() == v4);
        match has(true) && has(false) {
            true => [true, false].map(|v4| Self { v4: Some(v4), ..self.clone() }).into(),
            false => vec![self],
        }
    }
}

/// An answer that is no redirect. Its body is still to come.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Where it comes from.
    pub(super) place: Place,
    /// What gave it, after all redirects, and whether there were any.
    pub(super) target: Target,
    pub(super) redirected: bool,
    receive: Duration,
}

impl Answer {
    /// The next bytes of the body; none at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<impl Deref<Target = [u8]> + use<>>, FetchError> {
        let chunk = timeout(self.receive, self.response.chunk()).await;
        chunk.map_err(|_| FetchError::Deadline(self.receive))?.map_err(failed)
    }

    /// The body, inflated, of at most `most` bytes.
    pub(super) async fn body(mut self, most: usize) -> Result<Vec<u8>, FetchError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > most {
                return Err(FetchError::TooLong(most));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Fetches a URL that the user gave, of at most `most` bytes, within `total` and with redirects that lead outwards only.
///
/// # Errors
/// [`FetchError`]: it is not asked, does not answer in time or with success, or has more to say.
pub async fn fetch(network: &Network, url: &str, most: usize, total: Duration) -> Result<Vec<u8>, FetchError> {
    let patience = Patience { connect: Duration::from_secs(10), receive: Duration::from_secs(10) };
    let fetched = async {
        let answer = get(network, Purpose::User, Target::given(Purpose::User, url)?, None, patience).await?;
        match answer.response.status() {
            status if status.is_success() => answer.body(most).await,
            status => Err(FetchError::Status(status.as_u16())),
        }
    };
    timeout(total, fetched).await.unwrap_or(Err(FetchError::Deadline(total)))
}

/// Asks for a URL, or a range of what is there, and follows redirects. Each hop has all of the `patience`.
pub(super) async fn get(
    network: &Network,
    purpose: Purpose,
    mut target: Target,
    range: Option<&Range<u64>>,
    patience: Patience,
) -> Result<Answer, FetchError> {
    for hop in 0..=MAX_REDIRECTS {
        let response = send(network, purpose, &target, range, patience).await?;
        let place = network.place(&target.url, response.remote_addr());
        // 304 is none, and has nowhere to lead.
        if !response.status().is_redirection() || response.status().as_u16() == 304 {
            return Ok(Answer { response, place, target, redirected: hop > 0, receive: patience.receive });
        }
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let location = location.ok_or_else(|| FetchError::Status(response.status().as_u16()))?;
        let url = target.url.join(location).map_err(|_| FetchError::Refused("it redirects to what is not a URL"))?;
        if let Some(why) = refusal(&url) {
            return Err(FetchError::Refused(why));
        }
        target = Target { reach: Reach::redirected(purpose, place, &url), url, v4: target.v4 };
    }
    Err(FetchError::Redirects)
}

async fn send(
    network: &Network,
    purpose: Purpose,
    target: &Target,
    range: Option<&Range<u64>>,
    patience: Patience,
) -> Result<Response, FetchError> {
    let Target { url, reach, .. } = target;
    // The resolver checks names; addresses never get there.
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    if literal.is_some_and(|ip| !reach.admits(ip)) {
        return Err(FetchError::Refused(LOCAL_TARGET));
    }
    if !network.is_direct() && url.domain().is_some_and(|name| !reach.admits_name(name)) {
        return Err(FetchError::Refused(LOCAL_TARGET));
    }
    if literal.is_some_and(|ip| network.blocks(ip)) {
        return Err(FetchError::Refused(BLOCKED_TARGET));
    }
    let mut request = client(network, purpose, target, patience.connect).map_err(failed)?.get(url.clone());
    if let Some(range) = range {
        let last = range.end.saturating_sub(1);
        request = request.header(header::RANGE, format!("bytes={}-{last}", range.start));
        // A range is one of the bytes as they are stored.
        request = request.header(header::ACCEPT_ENCODING, "identity");
    }
    let deadline = patience.connect + patience.receive;
    let sent = timeout(deadline, request.send()).await.map_err(|_| FetchError::Deadline(deadline))?;
    sent.map_err(|error| match (error.is_connect(), failed(error)) {
        (true, FetchError::Transfer(cause)) => FetchError::Transfer(network.blame(cause)),
        (_, error) => error,
    })
}

/// The innermost cause, which is what a user can act on ("connection refused"), without the URL.
fn failed(error: reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::Transfer("it cannot be reached in time".to_owned());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    FetchError::Transfer(cause.to_string())
}

/// What clients differ in.
type ClientKey = (Network, bool, Reach, Option<bool>, Duration);

/// The process's client for what this target reaches: it resolves and checks names itself, so that what was checked is what is
/// connected to. There are a handful of them, and each loads the system's certificates once.
fn client(network: &Network, purpose: Purpose, target: &Target, connect: Duration) -> reqwest::Result<Client> {
    static CLIENTS: Mutex<BTreeMap<ClientKey, Client>> = Mutex::new(BTreeMap::new());
    let ranges = purpose == Purpose::WebSeed;
    let &Target { reach, v4, .. } = target;
    let key = (network.clone(), ranges, reach, v4, connect);
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&key) {
        return Ok(client.clone());
    }
    // reqwest panics without a provider. An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let builder = network
            .http(Client::builder())
            .user_agent(concat!("swarmfs/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(connect)
            .dns_resolver(GuardedResolver(network.clone(), reach, v4));
        if ranges {
            builder.no_gzip().pool_max_idle_per_host(KEPT).pool_idle_timeout(KEPT_FOR)
        } else {
            // Announces are minutes apart: an idle connection is a descriptor for nothing.
            builder.pool_max_idle_per_host(0)
        }
    };
    let client = builder().build().or_else(|error| {
        tracing::warn!("https cannot be used: {}", failed(error));
        builder().tls_certs_only(std::iter::empty::<Certificate>()).build()
    })?;
    clients.insert(key, client.clone());
    Ok(client)
}

/// The network's resolver, with what is out of reach left out.
#[derive(Debug)]
struct GuardedResolver(Network, Reach, Option<bool>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (network, reach, v4) = (self.0.clone(), self.1, self.2);
        Box::pin(async move {
            let mut found = match network.lookup_proxy(name.as_str()).await {
                Some(found) => found?,
                None => lookup(&network, name.as_str(), 0, reach).await?,
            };
            found.retain(|addr| v4.is_none_or(|v4| addr.is_ipv4() == v4));
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}
