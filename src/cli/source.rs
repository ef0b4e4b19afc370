//! What a command is given as SOURCE: a .torrent file today; other kinds are refused with a sentence until they are built.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::info::escaped;
use crate::Error;
use crate::metainfo::{Metainfo, MetainfoError};

/// The torrent that a SOURCE names: today, a .torrent file.
///
/// # Errors
/// One sentence if SOURCE is a kind that is not built yet, cannot be read, or is refused.
pub(crate) fn read(source: &Path) -> anyhow::Result<Metainfo> {
    if let Some(kind) = not_built(source) {
        anyhow::bail!(
            "{}: {kind} as SOURCE is not built yet; save the .torrent file and give its path",
            escaped(&source.to_string_lossy())
        );
    }
    let error = |what| move |error| Error::Io { path: source.to_owned(), what, cause: error };
    let file = fs::File::open(source).map_err(error("open"))?;
    let length = file.metadata().map_err(error("read"))?.len().min(Metainfo::MAX_FILE);
    // One byte past the limit tells a file that is too large from one that is just at it.
    let mut bytes = Vec::with_capacity(usize::try_from(length + 1).unwrap_or_default());
    file.take(Metainfo::MAX_FILE + 1).read_to_end(&mut bytes).map_err(error("read"))?;
    let refused = |cause: MetainfoError| Error::Metainfo { path: source.to_owned(), cause };
    Ok(Metainfo::parse(&bytes).map_err(refused)?)
}

/// What a SOURCE is, if it is a kind that is not built yet. What exists under that path is taken as a file.
fn not_built(source: &Path) -> Option<&'static str> {
    let text = source.to_str()?;
    let starts = |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let all = |test: fn(&u8) -> bool| text.as_bytes().iter().all(test);
    if source.is_dir() {
        return Some("a folder of torrents");
    }
    if source.exists() {
        return None;
    }
    if starts("magnet:") {
        return Some("a magnet link");
    }
    if starts("http://") || starts("https://") {
        return Some("an address");
    }
    let base32 = |byte: &u8| byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(byte);
    let hash = matches!(text.len(), 40 | 64) && all(u8::is_ascii_hexdigit) || text.len() == 32 && all(base32);
    hash.then_some("an info-hash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_are_not_built_are_named() {
        let kind = |text: &str| not_built(Path::new(text));
        assert_eq!(kind("magnet:?xt=urn:btih:x"), Some("a magnet link"));
        assert_eq!(kind("HTTPS://example.com/a.torrent"), Some("an address"));
        assert_eq!(kind(&"aB".repeat(20)), Some("an info-hash"));
        assert_eq!(kind("missing.torrent"), None);
    }
}
