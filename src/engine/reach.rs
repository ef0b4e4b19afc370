//! Which hosts and addresses a stranger's URL may lead to. A torrent is a stranger's file, and a redirect is a stranger's
//! word: neither may make us send requests to services of this machine or network that are no trackers and no web seeds.

use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use super::http::FetchError;
use super::network::Network;

/// Why a request is not sent: its address is out of reach.
pub(super) const LOCAL_TARGET: &str = "it leads to an address of this machine or network that is not allowed there";

/// Why a request is not sent: the user does not want it.
pub(super) const BLOCKED_TARGET: &str = "its address is on the block list";

pub(super) use crate::node::Place;

/// What a URL is for, which decides how far it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// A tracker that the torrent names.
    Tracker,
    /// A web seed that the torrent names.
    WebSeed,
    /// What the user typed.
    User,
}

/// Which places a request may go to, besides the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reach {
    private: bool,
    loopback: bool,
    link_local: bool,
}

impl Reach {
    /// For a URL that was given: the user's goes anywhere, a torrent's tracker anywhere, but on this machine to
    /// `/announce` only, a torrent's web seed anywhere that a host can be, but with a query to the Internet only: a query
    /// is how services are told what to do (libtorrent's rules).
    pub(super) fn given(purpose: Purpose, url: &Url) -> Self {
        let announce = url.path().starts_with("/announce");
        let plain = url.query().is_none();
        match purpose {
            Purpose::Tracker => Self { private: true, loopback: announce, link_local: announce },
            Purpose::WebSeed => Self { private: plain, loopback: plain, link_local: false },
            Purpose::User => Self { private: true, loopback: true, link_local: true },
        }
    }

    /// For the UDP trackers that the torrent gives: anywhere but to what is no host's address. No path is asked for: a
    /// service that is no tracker gets 16 bytes, none of them the torrent's, and only a tracker's answer to them brings
    /// on more.
    pub(super) fn datagrams() -> Self {
        Self { private: true, loopback: true, link_local: false }
    }

    /// For a redirect of a host at `from`: outwards or sideways, never inwards.
    pub(super) fn redirected(purpose: Purpose, from: Place, url: &Url) -> Self {
        let given = Self::given(purpose, url);
        Self {
            private: from >= Place::Private && given.private,
            loopback: from == Place::Loopback && given.loopback,
            link_local: false,
        }
    }

    /// True if a request may go to `ip`.
    pub(super) fn admits(self, ip: IpAddr) -> bool {
        match Place::of(ip) {
            Place::Global => true,
            Place::Private => self.private,
            Place::Loopback => self.loopback,
            Place::LinkLocal => self.link_local,
        }
    }
}

/// The addresses of a host, by name or in digits, that `reach` and the block list admit; no empty list for a host that has any.
pub(super) async fn lookup(
    network: &Network,
    host: &str,
    port: u16,
    reach: Reach,
) -> Result<Vec<SocketAddr>, FetchError> {
    let mut found = network.lookup(host, port).await.map_err(|e| FetchError::Transfer(e.to_string()))?;
    let any = !found.is_empty();
    found.retain(|addr| reach.admits(addr.ip()));
    if any && found.is_empty() {
        return Err(FetchError::Refused(LOCAL_TARGET));
    }
    found.retain(|addr| !network.blocks(addr.ip()));
    if any && found.is_empty() { Err(FetchError::Refused(BLOCKED_TARGET)) } else { Ok(found) }
}

/// Why an HTTP URL, a torrent's or a redirect's, is not asked whatever its address; libtorrent's rules.
pub(super) fn refusal(url: &Url) -> Option<&'static str> {
    match url.host() {
        _ if !matches!(url.scheme(), "http" | "https") => Some("it leads to what is neither http nor https"),
        None => Some("it names no host"),
        Some(Host::Domain(name)) => international(name),
        Some(_) => None,
    }
}

/// Why a host's name is refused, if it holds look-alike letters: they would lead elsewhere than they read.
pub(super) fn international(name: &str) -> Option<&'static str> {
    let encoded = |label: &str| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    let foreign = !name.is_ascii() || name.contains('%') || name.split('.').any(encoded);
    foreign.then_some("international host names are refused")
}

impl Reach {
    /// True if a request may go to a host of this name, as far as the name tells: a proxy resolves it, in a network of its
    /// own, and nobody here sees to which address.
    pub(super) fn admits_name(self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let below = |top: &str| name.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if below("localhost") {
            self.loopback
        } else if !name.contains('.') || ["local", "internal", "lan", "home.arpa"].into_iter().any(below) {
            self.private
        } else {
            true
        }
    }
}

/// Scheme, host and port of a URL: what may be logged of it.
pub(super) fn origin(url: &str) -> String {
    Url::parse(url).map_or_else(
        |_| "what is no URL".to_owned(),
        |url| {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> Url {
        Url::parse(&format!("http://t.example{path}")).expect("a URL")
    }

    #[test]
    fn a_tracker_is_reached_on_this_machine_at_announce_only() {
        let admits =
            |path: &str, ip: &str| Reach::given(Purpose::Tracker, &url(path)).admits(ip.parse().expect("an address"));
        for ip in ["127.0.0.1", "::1", "169.254.1.1", "::ffff:127.0.0.1"] {
            assert!(admits("/announce", ip) && admits("/announce.php", ip), "{ip}");
            assert!(!admits("/shutdown", ip) && !admits("/x/announce", ip) && !admits("/", ip), "{ip}");
        }
        assert!(admits("/tracker", "192.168.1.1") && admits("/tracker", "8.8.8.8"));
    }

    #[test]
    fn a_web_seed_with_a_query_is_on_the_internet() {
        let admits =
            |path: &str, ip: &str| Reach::given(Purpose::WebSeed, &url(path)).admits(ip.parse().expect("an address"));
        for ip in ["127.0.0.1", "::1", "192.168.1.1", "::ffff:10.0.0.1", "fd00::1"] {
            assert!(admits("/a/b", ip) && !admits("/a/b?reboot=1", ip) && !admits("/a?", ip), "{ip}");
        }
        for ip in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1"] {
            assert!(!admits("/latest/meta-data", ip), "{ip}");
        }
        assert!(admits("/a?token=1", "8.8.8.8"));
        let redirected = |from, path: &str, ip: &str| {
            Reach::redirected(Purpose::WebSeed, from, &url(path)).admits(ip.parse().expect("an address"))
        };
        assert!(redirected(Place::Loopback, "/x", "127.0.0.1") && !redirected(Place::Loopback, "/x?y", "127.0.0.1"));
        assert!(!redirected(Place::Private, "/x", "127.0.0.1") && redirected(Place::Private, "/x", "10.0.0.1"));
        assert!(!redirected(Place::Global, "/x", "10.0.0.1") && redirected(Place::Global, "/x?y", "8.8.8.8"));
        assert!(!redirected(Place::Loopback, "/x", "169.254.169.254"));
    }

    #[test]
    fn what_the_user_types_goes_anywhere_and_its_redirects_do_not() {
        let user = Reach::given(Purpose::User, &url("/x?y"));
        assert!(["127.0.0.1", "10.0.0.1", "169.254.1.1", "8.8.8.8"].iter().all(|ip| user.admits(ip.parse().unwrap())));
        let redirected = |from, ip: &str| {
            Reach::redirected(Purpose::User, from, &url("/x?y")).admits(ip.parse().expect("an address"))
        };
        assert!(!redirected(Place::Global, "127.0.0.1") && !redirected(Place::Global, "10.0.0.1"));
        assert!(redirected(Place::Loopback, "127.0.0.1") && !redirected(Place::Loopback, "169.254.1.1"));
    }

    #[test]
    fn logs_get_no_passkey() {
        assert_eq!(
            origin("https://user:secret@t.example:8443/secret/announce?passkey=secret"),
            "https://t.example:8443"
        );
        assert_eq!(origin("udp://t.example:6969/secret"), "udp://t.example:6969");
        assert_eq!(origin("secret"), "what is no URL");
    }

    #[test]
    fn datagrams_reach_hosts_only() {
        let admits = |ip: &str| Reach::datagrams().admits(ip.parse().expect("an address"));
        assert!(admits("127.0.0.1") && admits("::1") && admits("192.168.1.1") && admits("8.8.8.8"));
        for ip in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert!(!admits(ip), "{ip}");
        }
    }

    #[test]
    fn a_redirect_never_leads_inwards() {
        let admits = |from: Place, path: &str, ip: &str| {
            Reach::redirected(Purpose::Tracker, from, &url(path)).admits(ip.parse().expect("an address"))
        };
        for from in [Place::Global, Place::Private, Place::Loopback, Place::LinkLocal] {
            assert!(admits(from, "/announce", "8.8.8.8"));
            assert!(
                !admits(from, "/announce", "169.254.169.254") && !admits(from, "/announce", "::ffff:169.254.169.254")
            );
        }
        assert!(!admits(Place::Global, "/announce", "127.0.0.1") && !admits(Place::Global, "/announce", "10.0.0.1"));
        assert!(!admits(Place::Private, "/announce", "127.0.0.1") && admits(Place::Private, "/x", "10.0.0.1"));
        assert!(admits(Place::Loopback, "/announce", "127.0.0.1") && !admits(Place::Loopback, "/x", "127.0.0.1"));
    }

    #[test]
    fn names_that_lead_inwards_are_seen_where_nobody_resolves_them() {
        let outwards = Reach { private: false, loopback: false, link_local: false };
        for inward in ["localhost", "LOCALHOST.", "a.localhost", "router", "nas.local", "x.internal", "a.home.arpa"] {
            assert!(!outwards.admits_name(inward), "{inward}");
        }
        for outward in ["tracker.example", "localhost.example", "local.example.", "notlocal.org"] {
            assert!(outwards.admits_name(outward), "{outward}");
        }
        let near = Reach { private: true, ..outwards };
        assert!(near.admits_name("router") && !near.admits_name("localhost"));
    }
}
