//! `swarmfs info SOURCE`: what is in a torrent.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::{Serialize, Serializer};

use super::options::Way;
use super::scrape::{self, Scraped};
use super::source::Source;
use crate::cache::Store;
use crate::engine::Network;
use crate::metainfo::{File, FileKind, Magnet, Metainfo, TorrentId};

/// Prints what is in the torrent at `path`, for people or, with `json`, for programs; with `scrape`, what its trackers
/// say of it, too. The metadata of a link is looked for in the cache directory `cache`.
///
/// # Errors
/// One sentence if `path` cannot be read or is refused, or if `scrape` finds no tracker that answers. A reader of the
/// output that goes away is no error.
pub(crate) fn run(path: &Path, cache: Option<&Path>, json: bool, scrape: bool, way: &Way) -> anyhow::Result<()> {
    let network = Network::of(&way.config())?;
    let known = |magnet: &Magnet| Some(magnet.with_metadata(Store::find(cache?, &magnet.id)?));
    let meta = match Source::read(path, &network)? {
        Source::Torrent(meta) => *meta,
        Source::Magnet(magnet) if let Some(meta) = known(&magnet) => meta,
        Source::Magnet(_) if scrape => {
            anyhow::bail!("{}: --scrape needs the .torrent file", escaped(&path.to_string_lossy()))
        }
        Source::Magnet(magnet) => {
            let mut out = BufWriter::new(io::stdout().lock());
            let printed = if json { magnet_json(&magnet, &mut out) } else { magnet_text(&magnet, &mut out) };
            return super::printed(printed.and_then(|()| out.flush()));
        }
    };
    let scraped = if scrape { Some(scrape::all(&meta, &network)?) } else { None };
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if json { print_json(&meta, scraped.as_deref(), &mut out) } else { print_text(&meta, &mut out) };
    let printed = printed.and_then(|()| match &scraped {
        Some(scraped) if !json => scrape::print(scraped, &mut out),
        _ => Ok(()),
    });
    super::printed(printed.and_then(|()| out.flush()))?;
    match scraped {
        Some(scraped) if scraped.is_empty() => anyhow::bail!("{}: it names no tracker", path.display()),
        Some(scraped) if !scraped.iter().any(Scraped::answered) => {
            anyhow::bail!("{}: none of its trackers answers", path.display())
        }
        _ => Ok(()),
    }
}

fn print_text(meta: &Metainfo, out: &mut impl Write) -> io::Result<()> {
    let mut line = |key: &str, value: String| writeln!(out, "{key:<13} {value}");
    line("name", escaped(&meta.name))?;
    line("info-hash", meta.id.to_string())?;
    if let Some(v2) = hash_v2(&meta.id) {
        line("info-hash v2", v2)?;
    }
    let total = meta.geometry.total();
    line("size", format!("{total} bytes ({})", human(total)))?;
    let length = u64::from(meta.geometry.nominal_piece_length());
    line("piece length", format!("{length} bytes ({})", human(length)))?;
    line("pieces", meta.geometry.pieces().to_string())?;
    line("private", if meta.private { "yes" } else { "no" }.to_owned())?;
    if let Some(date) = meta.creation_date {
        line("created", iso8601(date))?;
    }
    if let Some(by) = &meta.created_by {
        line("created by", escaped(by))?;
    }
    if let Some(comment) = &meta.comment {
        line("comment", escaped(comment))?;
    }
    for (tier, urls) in meta.trackers.iter().enumerate() {
        for url in urls {
            line("tracker", format!("{} (tier {})", escaped(url), tier + 1))?;
        }
    }
    for url in &meta.web_seeds {
        line("web seed", escaped(url))?;
    }
    line("magnet", Magnet::to(meta).to_string())?;
    let shown = meta.files.iter().filter(|file| file.visible());
    line("files", shown.clone().count().to_string())?;
    let width = shown.clone().map(|file| file.length).max().unwrap_or_default().to_string().len();
    for file in shown {
        let note = match &file.kind {
            FileKind::Regular { executable: true } => " (executable)".to_owned(),
            FileKind::Symlink { target } => format!(" -> {}", escaped(target)),
            _ => String::new(),
        };
        writeln!(out, "  {:>width$}  {}{note}", file.length, escaped(&file.path))?;
    }
    let count = |kind: FileKind| meta.files.iter().filter(|file| file.kind == kind).count();
    match (count(FileKind::Pad), count(FileKind::Hidden)) {
        (0, 0) => Ok(()),
        (pad, hidden) => {
            writeln!(out, "not shown: {pad} padding files, {hidden} links that lead nowhere in the torrent")
        }
    }
}

/// What awaits a magnet link, and what it says.
const AWAITED: &str = "awaited: mount and get ask the torrent's peers for it";

fn magnet_text(magnet: &Magnet, out: &mut impl Write) -> io::Result<()> {
    let mut line = |key: &str, value: &str| writeln!(out, "{key:<13} {}", escaped(value));
    line("name", magnet.name.as_deref().unwrap_or("(not in the link)"))?;
    line("info-hash", &magnet.id.to_string())?;
    if let Some(v2) = hash_v2(&magnet.id) {
        line("info-hash v2", &v2)?;
    }
    line("metadata", AWAITED)?;
    for (tier, url) in (1..).zip(magnet.trackers.iter().flatten()) {
        line("tracker", &format!("{url} (tier {tier})"))?;
    }
    magnet.web_seeds.iter().try_for_each(|url| line("web seed", url))?;
    magnet.peers.iter().try_for_each(|peer| line("peer", &peer.to_string()))?;
    magnet.nodes.iter().try_for_each(|node| line("DHT node", &node.to_string()))?;
    magnet
        .select
        .iter()
        .flatten()
        .try_for_each(|files| line("selected", &format!("files {} to {}", files.start, files.end - 1)))
}

fn magnet_json(magnet: &Magnet, out: &mut impl Write) -> io::Result<()> {
    let list = |hosts: &[crate::metainfo::HostPort]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let select = magnet.select.as_ref().map(|ranges| ranges.iter().map(|r| [r.start, r.end - 1]).collect::<Vec<_>>());
    let json = serde_json::json!({
        "name": magnet.name,
        "info_hash": magnet.id.to_string(),
        "info_hash_v2": hash_v2(&magnet.id),
        "metadata": AWAITED,
        "trackers": magnet.trackers,
        "web_seeds": magnet.web_seeds,
        "peers": list(&magnet.peers),
        "dht_nodes": list(&magnet.nodes),
        "selected": select,
    });
    writeln!(out, "{json}")
}

fn print_json(meta: &Metainfo, scraped: Option<&[Scraped]>, out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Info<'a> {
        name: &'a str,
        info_hash: String,
        info_hash_v2: Option<String>,
        size: u64,
        piece_length: u32,
        pieces: u32,
        single_file: bool,
        private: bool,
        comment: Option<&'a str>,
        created_by: Option<&'a str>,
        creation_date: Option<String>,
        trackers: &'a [Vec<String>],
        web_seeds: &'a [String],
        magnet: String,
        #[serde(serialize_with = "list")]
        files: &'a [File],
        #[serde(skip_serializing_if = "Option::is_none")]
        scrape: Option<&'a [Scraped]>,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        path: &'a str,
        size: u64,
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<&'a str>,
    }
    fn list<S: Serializer>(files: &&[File], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(files.iter().map(|file| {
            let (kind, target) = match &file.kind {
                FileKind::Regular { executable: false } => ("file", None),
                FileKind::Regular { executable: true } => ("executable", None),
                FileKind::Symlink { target } => ("symlink", Some(&**target)),
                FileKind::Pad => ("pad", None),
                FileKind::Hidden => ("hidden", None),
            };
            Entry { path: &file.path, size: file.length, kind, target }
        }))
    }
    let info = Info {
        name: &meta.name,
        info_hash: meta.id.to_string(),
        info_hash_v2: hash_v2(&meta.id),
        size: meta.geometry.total(),
        piece_length: meta.geometry.nominal_piece_length(),
        pieces: meta.geometry.pieces(),
        single_file: meta.single_file,
        private: meta.private,
        comment: meta.comment.as_deref(),
        created_by: meta.created_by.as_deref(),
        creation_date: meta.creation_date.map(iso8601),
        trackers: &meta.trackers,
        web_seeds: &meta.web_seeds,
        magnet: Magnet::to(meta).to_string(),
        files: &meta.files,
        scrape: scraped,
    };
    serde_json::to_writer_pretty(&mut *out, &info)?;
    writeln!(out)
}

/// The v2 info-hash of a hybrid, in hexadecimal digits.
fn hash_v2(id: &TorrentId) -> Option<String> {
    id.v2.map(|v2| v2.0.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A text from outside as a terminal may have it: what could move the cursor, colour, or turn the direction of what
/// follows becomes an escape.
pub(super) fn escaped(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if hostile(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

/// Bytes as people read them: `1.4 GiB`.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, rounded down, so that no figure is larger than what it stands for.
    let unit = (bytes.ilog2() / 10) as usize;
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit - 1])
}

/// Seconds since 1970 as ISO 8601, UTC. `seconds` is from 1970 to 9999, as [`Metainfo::creation_date`] is.
fn iso8601(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years: the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + i64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_540_601_784, "2018-10-27T00:56:24Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(iso8601(seconds), date);
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1023.9 KiB"), (u64::MAX, "15.9 EiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn texts_cannot_drive_a_terminal() {
        assert_eq!(escaped("caf\u{e9} \u{1b}[2J\n\u{9b}\u{202e}x"), "caf\u{e9} \\u{1b}[2J\\n\\u{9b}\\u{202e}x");
    }
}
