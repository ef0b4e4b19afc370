//! What a command is given as SOURCE: a .torrent file or its http(s) URL, a magnet link or an info-hash, or a file that
//! holds a magnet link; a folder is refused with a sentence until that is built.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::info::escaped;
use crate::Error;
use crate::engine::{Network, fetch};
use crate::metainfo::{Magnet, MagnetError, Metainfo, MetainfoError, TorrentId};

/// What of a link is shown in errors, characters: its info-hash, and no tracker's passkey.
const SHOWN: usize = 64;

/// What a server may take for a .torrent file: 64 MiB at 1 MiB a second.
const FETCH: Duration = Duration::from_secs(60);

/// A torrent, or what names one.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// What a .torrent file says.
    Torrent(Box<Metainfo>),
    /// Its metadata has to be found.
    Magnet(Magnet),
}

impl Source {
    /// Reads a SOURCE.
    ///
    /// # Errors
    /// One sentence if SOURCE is a kind that is not built yet, cannot be read or fetched, or is refused.
    pub(crate) fn read(source: &Path, network: &Network) -> anyhow::Result<Self> {
        if source.is_dir() {
            anyhow::bail!(
                "{}: a folder of torrents as SOURCE is not built yet; give the .torrent files in it",
                escaped(&source.to_string_lossy())
            );
        }
        if let Some(text) = source.to_str().filter(|text| names(text) && !source.exists()) {
            return magnet(text).map_err(|cause| refused_link(text, cause).into());
        }
        let url = source.to_str().filter(|text| is_url(text) && !source.exists());
        let bytes = match url {
            Some(url) => fetched(url, network)?,
            None => file(source)?,
        };
        if let Some(text) = str::from_utf8(&bytes).ok().map(str::trim).filter(|text| starts_with(text, "magnet:")) {
            return magnet(text).map_err(|cause| refused_link(&source.to_string_lossy(), cause).into());
        }
        let refused = |cause: MetainfoError| Error::Metainfo { path: source.to_owned(), cause };
        Ok(Self::Torrent(Box::new(Metainfo::parse(&bytes).map_err(refused)?)))
    }

    /// The torrent's identity. Of a magnet link it may be half of it.
    pub(crate) fn id(&self) -> TorrentId {
        match self {
            Self::Torrent(meta) => meta.id,
            Self::Magnet(magnet) => magnet.id,
        }
    }
}

/// The torrent of a .torrent file, for a command that needs one.
///
/// # Errors
/// One sentence if SOURCE is something else, cannot be read, or is refused.
pub(crate) fn torrent(source: &Path, network: &Network) -> anyhow::Result<Metainfo> {
    match Source::read(source, network)? {
        Source::Torrent(meta) => Ok(*meta),
        Source::Magnet(magnet) => anyhow::bail!(
            "{}: a magnet link says nothing of the pieces; give the .torrent file",
            escaped(&magnet.label())
        ),
    }
}

fn magnet(text: &str) -> Result<Source, MagnetError> {
    let magnet = Magnet::parse(text)?;
    if magnet.id.v1.is_some() { Ok(Source::Magnet(magnet)) } else { Err(MagnetError::V2Only) }
}

fn refused_link(text: &str, cause: MagnetError) -> Error {
    let mut link: String = text.chars().take(SHOWN).collect();
    if link.len() < text.len() {
        link.push_str("...");
    }
    Error::Magnet { link: escaped(&link), cause }
}

fn file(source: &Path) -> Result<Vec<u8>, Error> {
    let error = |what| move |error| Error::Io { path: source.to_owned(), what, cause: error };
    let file = fs::File::open(source).map_err(error("open"))?;
    let length = file.metadata().map_err(error("read"))?.len().min(Metainfo::MAX_FILE);
    // One byte past the limit tells a file that is too large from one that is just at it.
    let mut bytes = Vec::with_capacity(usize::try_from(length + 1).unwrap_or_default());
    file.take(Metainfo::MAX_FILE + 1).read_to_end(&mut bytes).map_err(error("read"))?;
    Ok(bytes)
}

/// What an http(s) URL leads to. Nobody else runs yet, so whoever is tired of waiting can interrupt it.
fn fetched(url: &str, network: &Network) -> anyhow::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let most = usize::try_from(Metainfo::MAX_FILE).unwrap_or(usize::MAX);
    let fetched = runtime.block_on(fetch(network, url, most, FETCH));
    // A resolver may hold a thread for longer than anybody waits.
    runtime.shutdown_background();
    fetched.with_context(|| escaped(url))
}

fn is_url(text: &str) -> bool {
    starts_with(text, "http://") || starts_with(text, "https://")
}

/// True for what is no path but names a torrent, rightly or not.
fn names(text: &str) -> bool {
    let all = |test: fn(&u8) -> bool| text.as_bytes().iter().all(test);
    let base32 = |byte: &u8| byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(byte);
    let hash = matches!(text.len(), 40 | 64 | 68) && all(u8::is_ascii_hexdigit) || text.len() == 32 && all(base32);
    hash || starts_with(text, "magnet:")
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_why() {
        let sentence = |text: &str| Source::read(Path::new(text), &Network::default()).expect_err(text).to_string();
        assert!(sentence("/").contains("not built yet"));
        assert!(sentence("missing.torrent").contains("missing.torrent: cannot open"));
        assert!(is_url("HTTPS://example.com/a.torrent") && !is_url("https"));
    }

    #[test]
    fn links_and_hashes_are_told_from_paths() {
        for link in ["magnet:?xt=urn:btih:x", "MAGNET:", &"aB".repeat(20), &"a2".repeat(16), &"0".repeat(64)] {
            assert!(names(link), "{link}");
        }
        for path in ["missing.torrent", "a", &"z".repeat(40), "http://a"] {
            assert!(!names(path), "{path}");
        }
    }

    #[test]
    fn a_refused_link_shows_its_beginning_only() {
        let link = format!("magnet:?xt=urn:btih:{}&tr=http://t.example/announce?passkey=secret", "z".repeat(40));
        let sentence = refused_link(&link, MagnetError::Hash).to_string();
        assert!(sentence.starts_with("magnet:?xt=urn:btih:zzz") && !sentence.contains("secret"), "{sentence}");
    }
}
