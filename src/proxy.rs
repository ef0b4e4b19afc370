//! A SOCKS5 proxy as the user names it. What it is told to authorize us with is in no log and no error.

use std::fmt;

use url::{Host, Url};

use crate::metainfo::percent;

/// The longest user name and password that SOCKS5 has room for, bytes (RFC 1929).
const MAX_CREDENTIAL: usize = 255;

/// A SOCKS5 proxy (RFC 1928), which resolves the names that it is given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxy {
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
}

impl Proxy {
    /// Reads `socks5h://[USER:PASSWORD@]HOST:PORT`; `socks5://` means the same, since nothing here resolves names that a
    /// proxy is to reach. Escapes (`%40`) in the user name and password are undone.
    ///
    /// # Errors
    /// A sentence for the user, without the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        const FORM: &str = "--proxy is a URL like socks5h://127.0.0.1:1080 or socks5h://USER:PASSWORD@HOST:PORT";
        let url = Url::parse(text).map_err(|_| FORM)?;
        if !matches!(url.scheme(), "socks5" | "socks5h") {
            return Err("--proxy is for SOCKS5 proxies only: give it a URL like socks5h://127.0.0.1:1080");
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(FORM);
        }
        // The host of a scheme that `url` does not know is text, whatever it says.
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() && name.bytes().all(named) => name.to_owned(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            _ => return Err(FORM),
        };
        let port =
            url.port().filter(|&port| port != 0).ok_or("--proxy names no port: SOCKS5 proxies often have 1080")?;
        let plain = |text| String::from_utf8(percent::decode(text, false)).ok();
        let (user, password) = (plain(url.username()), plain(url.password().unwrap_or_default()));
        let (user, password) = user.zip(password).ok_or("--proxy: its user name and password are not text")?;
        let credentials = match (user.len(), password.len()) {
            (0, 0) => None,
            (1..=MAX_CREDENTIAL, 1..=MAX_CREDENTIAL) => Some((user, password)),
            _ => return Err("--proxy: SOCKS5 takes a user name and a password of 1 to 255 bytes each, or neither"),
        };
        Ok(Self { host, port, credentials })
    }

    /// Its host, by name or in digits without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User name and password.
    pub(crate) fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// Its URL with everything, for who connects to it: not for logs.
    pub(crate) fn url(&self) -> String {
        let credentials = self.credentials.as_ref();
        let credentials = credentials.map(|(user, password)| format!("{}:{}@", escaped(user), escaped(password)));
        format!("socks5h://{}{self}", credentials.unwrap_or_default())
    }
}

/// With an escape for whatever is no letter or digit.
fn escaped(text: &str) -> String {
    percent::encode(text.as_bytes(), |byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}, {})", if self.credentials.is_some() { "with credentials" } else { "open" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_credentials_are_read() {
        let parse = |text: &str| Proxy::parse(text).expect(text);
        assert_eq!(parse("socks5h://127.0.0.1:1080").to_string(), "127.0.0.1:1080");
        assert_eq!(parse("socks5://proxy.example:9050/").to_string(), "proxy.example:9050");
        let six = parse("socks5h://[::1]:1080");
        assert_eq!((six.host(), six.to_string().as_str()), ("::1", "[::1]:1080"));
        let sealed = parse("socks5h://me:p%40ss%3A@10.0.0.1:1080");
        assert_eq!(sealed.credentials(), Some(("me", "p@ss:")));
        assert_eq!(sealed.url(), "socks5h://me:p%40ss%3A@10.0.0.1:1080");
        assert_eq!(parse("socks5h://127.0.0.1:1080").credentials(), None);
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_not_repeated() {
        for text in [
            "",
            "127.0.0.1:1080",
            "http://secret:secret@127.0.0.1:8080",
            "socks4://secret@127.0.0.1:1080",
            "socks5h://secret:secret@127.0.0.1",
            "socks5h://secret:secret@127.0.0.1:0",
            "socks5h://secret:secret@:1080",
            "socks5h://secret:secret@127.0.0.1:1080/secret",
            "socks5h://secret@127.0.0.1:1080",
            "socks5h://:secret@127.0.0.1:1080",
            "socks5h://secret:secret@ex\u{e4}mple:1080",
            "socks5h://se%FFcret:secret@127.0.0.1:1080",
            &format!("socks5h://{}:secret@127.0.0.1:1080", "secret".repeat(43)),
        ] {
            let refused = Proxy::parse(text).expect_err(text);
            assert!(refused.starts_with("--proxy") && !refused.contains("secret"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let proxy = Proxy::parse("socks5h://user:secret@10.0.0.1:1080").expect("a proxy");
        let shown = format!("{proxy} {proxy:?}");
        assert!(!shown.contains("secret") && !shown.contains("user"), "{shown}");
    }
}
