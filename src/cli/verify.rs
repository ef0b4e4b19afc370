//! `swarmfs verify`: compares a copy with its torrent, and says file by file what is wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use serde::Serialize;

use super::info::{escaped, human};
use super::options::Way;
use super::{progress, source};
use crate::cache::{DataDir, VerifyReport};
use crate::engine::Network;
use crate::metainfo::Metainfo;

/// Runs of bad pieces that are written out for one file; the others are counted.
const RUNS: usize = 20;

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A .torrent file
    torrent: PathBuf,
    /// The directory that holds the copy
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: Way,
}

/// What is wrong with one file.
#[derive(Debug, Serialize)]
struct BadFile<'a> {
    path: &'a str,
    length: u64,
    /// Pieces that hold bytes of it.
    pieces: u32,
    bad_pieces: u32,
    /// The bad ones, as runs with both ends in them.
    bad: Vec<RangeInclusive<u32>>,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    name: &'a str,
    info_hash: String,
    complete: bool,
    size: u64,
    good_bytes: u64,
    pieces: u32,
    good_pieces: usize,
    files: usize,
    bad_files: Vec<BadFile<'a>>,
}

/// Runs the command. The exit code is 0 if everything is right.
///
/// # Errors
/// One sentence if the torrent or the directory cannot be read.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let meta = source::torrent(&arguments.torrent, &Network::of(&arguments.way.config())?)?;
    let data = DataDir::open(&meta, &arguments.data)?;
    let bar = progress::bytes_bar(&format!("checking {}", meta.name), meta.geometry.total());
    let report = data.verify(&meta, &|bytes| bar.inc(bytes), &AtomicBool::new(false))?;
    bar.finish_and_clear();
    let summary = summary(&meta, &report, data.wrong_empty_files(&meta));
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if arguments.json { print_json(&summary, &mut out) } else { print_text(&summary, &mut out) };
    super::printed(printed.and_then(|()| out.flush()))?;
    Ok(if summary.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `empty`: the empty files that are wrong, and why.
fn summary<'a>(meta: &'a Metainfo, report: &VerifyReport, empty: Vec<(&'a str, &str)>) -> Summary<'a> {
    let reasons: BTreeMap<_, _> = report.bad_files.iter().map(|(path, why)| (path.as_path(), why)).collect();
    // The one file of a torrent may have another name on disk.
    let reason = |path: &str| {
        let found = if meta.single_file { report.bad_files.first().map(|(_, why)| why) } else { None };
        found.or_else(|| reasons.get(Path::new(path)).copied()).cloned()
    };
    let mut bad_files = Vec::new();
    for file in meta.files.iter().filter(|file| file.visible() && file.length > 0) {
        let Some(pieces) = meta.geometry.covering(file.bytes()) else { continue };
        let bad = runs(pieces.clone().filter(|piece| report.have.get(*piece as usize) != Some(&true)));
        if !bad.is_empty() {
            bad_files.push(BadFile {
                path: &file.path,
                length: file.length,
                pieces: pieces.end - pieces.start,
                bad_pieces: bad.iter().map(|run| run.end() - run.start() + 1).sum(),
                bad,
                reason: reason(&file.path),
            });
        }
    }
    bad_files.extend(empty.into_iter().map(|(path, reason)| BadFile {
        path,
        length: 0,
        pieces: 0,
        bad_pieces: 0,
        bad: Vec::new(),
        reason: Some(reason.to_owned()),
    }));
    let good_pieces = report.have.iter().filter(|have| **have).count();
    Summary {
        name: &meta.name,
        info_hash: meta.id.to_string(),
        complete: good_pieces == report.have.len() && bad_files.is_empty(),
        size: meta.geometry.total(),
        good_bytes: report.good,
        pieces: meta.geometry.pieces(),
        good_pieces,
        files: meta.files.iter().filter(|file| file.visible()).count(),
        bad_files,
    }
}

/// Rising numbers as runs of neighbours.
fn runs(numbers: impl Iterator<Item = u32>) -> Vec<RangeInclusive<u32>> {
    let mut runs: Vec<RangeInclusive<u32>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end().checked_add(1) == Some(number) => *run = *run.start()..=number,
            _ => runs.push(number..=number),
        }
    }
    runs
}

fn print_text(summary: &Summary<'_>, out: &mut impl Write) -> io::Result<()> {
    for file in &summary.bad_files {
        // An empty file: there is a reason, and no piece.
        if let (0, Some(reason)) = (file.pieces, &file.reason) {
            writeln!(out, "{}: {}", escaped(file.path), escaped(reason))?;
            continue;
        }
        let mut bad = String::new();
        for run in file.bad.iter().take(RUNS) {
            let comma = if bad.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = match run.start() == run.end() {
                true => write!(bad, "{comma}{}", run.start()),
                false => write!(bad, "{comma}{}-{}", run.start(), run.end()),
            };
        }
        let more = if file.bad.len() > RUNS { ", ..." } else { "" };
        let reason = file.reason.as_ref().map_or_else(String::new, |reason| format!(" ({})", escaped(reason)));
        let (path, count, all) = (escaped(file.path), file.bad_pieces, file.pieces);
        writeln!(out, "{path}: {count} of {all} pieces bad or missing: {bad}{more}{reason}")?;
    }
    let (name, pieces, good) = (escaped(summary.name), summary.pieces, summary.good_pieces);
    if summary.complete {
        return writeln!(out, "{name}: all {pieces} pieces are right, {}", human(summary.size));
    }
    let (bad, files) = (pieces as usize - good, summary.bad_files.len());
    writeln!(
        out,
        "{name}: {bad} of {pieces} pieces bad or missing in {files} of {} files; {} of {} are right",
        summary.files,
        human(summary.good_bytes),
        human(summary.size)
    )
}

fn print_json(summary: &Summary<'_>, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, summary)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_runs() {
        assert_eq!(runs([4, 7, 8, 10, 11, 12].into_iter()), [4..=4, 7..=8, 10..=12]);
        assert_eq!(runs([u32::MAX - 1, u32::MAX].into_iter()), [u32::MAX - 1..=u32::MAX]);
        assert!(runs(std::iter::empty()).is_empty());
    }

    #[test]
    fn long_lists_are_cut_and_control_characters_are_shown() {
        let bad = (0..30).map(|n| n * 2..=n * 2).collect();
        let reason = Some("it is missing".to_owned());
        let file = BadFile { path: "a\u{1b}b", length: 1, pieces: 60, bad_pieces: 30, bad, reason };
        let summary = Summary {
            name: "n",
            info_hash: String::new(),
            complete: false,
            size: 2048,
            good_bytes: 1024,
            pieces: 60,
            good_pieces: 30,
            files: 3,
            bad_files: vec![file],
        };
        let mut out = Vec::new();
        print_text(&summary, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (first, last) = text.trim_end().split_once('\n').unwrap();
        assert!(first.starts_with("a\\u{1b}b: 30 of 60 pieces bad or missing: 0, 2, 4, "), "{first}");
        assert!(first.ends_with(", 36, 38, ... (it is missing)"), "{first}");
        assert_eq!(last, "n: 30 of 60 pieces bad or missing in 1 of 3 files; 1.0 KiB of 2.0 KiB are right");
    }
}
