//! What a torrent is made with, and the checks of it.

use std::path::PathBuf;

use url::Url;

use super::exclude;
use crate::error::{Error, Result};
use crate::metainfo::{BLOCK_LENGTH, Geometry, MAX_ADDRESS_LENGTH};

/// What a torrent is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Announce URLs (http, https, udp), each a tier of its own (BEP 12).
    pub trackers: Vec<String>,
    /// Bytes of a piece: a power of two from 16 KiB to 512 MiB. `None`: by the size, some 1,000 to 2,000 pieces.
    pub piece_length: Option<u32>,
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
    /// A text for people.
    pub comment: Option<String>,
    /// Web seeds (http, https; BEP 19). For a directory, the address of the directory that it lies in.
    pub web_seeds: Vec<String>,
    /// Globs of what is left out. Each is compared with paths below the root (`*` stops at a `/`, `**` does not) and with
    /// names alone; one that ends in `/` takes directories only. What is below an excluded directory is left out too.
    pub exclude: Vec<String>,
    /// What cannot be read, and what no torrent can hold, is left out and not refused.
    pub skip_unfit: bool,
    /// Where the .torrent will be written: left out of the torrent should it lie inside.
    pub out: Option<PathBuf>,
}

impl Options {
    /// Checks everything that does not depend on the files.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |what: &str, reason| Error::Create { what: what.escape_debug().to_string(), reason };
        for url in &self.trackers {
            tracker(url).map_err(|reason| refuse(url, reason))?;
        }
        for url in &self.web_seeds {
            web_seed(url).map_err(|reason| refuse(url, reason))?;
        }
        for glob in &self.exclude {
            exclude::check(glob).map_err(|reason| refuse(glob, reason))?;
        }
        if let Some(bytes) = self.piece_length {
            piece_length(bytes.into()).map_err(|reason| refuse("piece length", reason))?;
        }
        Ok(())
    }

    /// The trackers, each once.
    pub(super) fn trackers(&self) -> Vec<&str> {
        once(self.trackers.iter().map(String::as_str))
    }

    /// The web seeds, each once. That of a directory ends in a slash.
    pub(super) fn web_seeds(&self, single_file: bool) -> Vec<String> {
        once(
            self.web_seeds
                .iter()
                .map(|url| if single_file || url.ends_with('/') { url.clone() } else { format!("{url}/") }),
        )
    }
}

/// The items without their repetitions, in order. They are few.
fn once<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut kept, item| {
        if !kept.contains(&item) {
            kept.push(item);
        }
        kept
    })
}

/// Checks a piece length in bytes.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn piece_length(bytes: u64) -> Result<u32, String> {
    u32::try_from(bytes)
        .ok()
        .filter(|length| length.is_power_of_two() && (BLOCK_LENGTH..=Geometry::MAX_PIECE_LENGTH).contains(length))
        .ok_or_else(|| format!("{bytes} bytes are no piece length: it must be a power of two from 16KiB to 512MiB"))
}

/// Checks an announce URL.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn tracker(text: &str) -> Result<(), String> {
    const FORM: &str = "write it as http://HOST/announce, https://HOST/announce or udp://HOST:PORT";
    let url = address(text, &["http", "https", "udp"]).map_err(|why| format!("{why}; {FORM}"))?;
    // Only http and https have a port of their own (BEP 15).
    if url.scheme() == "udp" && url.port().is_none() {
        return Err(format!("a udp tracker needs a port; {FORM}"));
    }
    Ok(())
}

/// Checks the URL of a web seed.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn web_seed(text: &str) -> Result<(), String> {
    let why = |why| format!("{why}; write it as http://HOST/PATH or https://HOST/PATH");
    address(text, &["http", "https"]).map(|_| ()).map_err(why)
}

/// An address that every client reads alike, or what is wrong with it.
fn address(text: &str, schemes: &[&str]) -> Result<Url, String> {
    if text.len() > MAX_ADDRESS_LENGTH {
        return Err(format!("an address of more than {MAX_ADDRESS_LENGTH} bytes"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("an address has no spaces and no letters beyond ASCII: percent-encode them".into());
    }
    let url = Url::parse(text).map_err(|error| format!("not an address ({error})"))?;
    // The parser also takes `http:host` and `http:///host`, which not every client does.
    let host = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://")).unwrap_or_default();
    if !schemes.contains(&url.scheme()) || host.is_empty() || host.starts_with(['/', '\\', '?', '#', ':']) {
        return Err("not an address of a kind that works here".into());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths() {
        assert_eq!(piece_length(16 << 10), Ok(16 << 10));
        assert_eq!(piece_length(512 << 20), Ok(512 << 20));
        for wrong in [0, 1, 8 << 10, 48 << 10, (16 << 10) + 1, 1 << 30, u64::MAX] {
            assert!(piece_length(wrong).unwrap_err().contains("power of two"), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        for good in ["http://t/announce", "HTTPS://t:8/a?key=x%20y", "udp://t:6969", "udp://[::1]:1/announce"] {
            assert_eq!(tracker(good), Ok(()), "{good}");
        }
        let long = format!("http://t/{}", "a".repeat(2_048));
        for bad in [
            "",
            "t",
            "http:t",
            "http:/t",
            "http://",
            "http:///a",
            "udp://t",
            "udp://:1",
            "wss://t",
            "ftp://t/",
            "http://a b/",
            "http://é/",
            "http://t:99999/",
            " http://t/",
            "http://t/\n",
            &long,
        ] {
            assert!(tracker(bad).is_err(), "{bad}");
        }
        assert_eq!(web_seed("https://w/d/"), Ok(()));
        assert!(web_seed("udp://w:1").is_err());
    }

    #[test]
    fn repetitions_go_and_directories_end_in_a_slash() {
        let twice = vec!["http://a".to_owned(), "http://b".to_owned(), "http://a".to_owned(), "http://b/".to_owned()];
        let options = Options { trackers: twice.clone(), web_seeds: twice, ..Options::default() };
        assert_eq!(options.trackers(), ["http://a", "http://b", "http://b/"]);
        assert_eq!(options.web_seeds(false), ["http://a/", "http://b/"]);
        assert_eq!(options.web_seeds(true), ["http://a", "http://b", "http://b/"]);
    }
}
