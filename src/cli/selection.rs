//! `--select`: which files of a torrent are fetched.

use std::ops::Range;

use anyhow::{Result, bail};
use globset::GlobBuilder;

use crate::metainfo::{File, Metainfo};

/// The files of a torrent that are to be there.
#[derive(Debug)]
pub(crate) struct Selection {
    /// Per file of the torrent; none: all of them.
    pub(crate) files: Option<Vec<bool>>,
}

impl Selection {
    /// The files that any of these globs matches: by its path in the torrent, by its name, or by the path or the name of
    /// a directory that it lies in. Without a glob, all files.
    ///
    /// # Errors
    /// One sentence for what is no glob and for a glob that matches nothing.
    pub(crate) fn new(meta: &Metainfo, globs: &[String]) -> Result<Self> {
        if globs.is_empty() {
            return Ok(Self { files: None });
        }
        let mut files = vec![false; meta.files.len()];
        for text in globs {
            let pattern = text.trim_end_matches('/');
            // `*` stays within a name, as in a shell.
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            let glob = glob.map_err(|e| anyhow::anyhow!("--select {text}: {}", e.kind()))?.compile_matcher();
            let matches = |path: &str| {
                let name = path.rsplit('/').next().filter(|_| !pattern.contains('/'));
                path == pattern
                    || glob.is_match(path)
                    || name.is_some_and(|name| name == pattern || glob.is_match(name))
            };
            let mut any = false;
            for (file, wanted) in meta.files.iter().zip(&mut files).filter(|(file, _)| file.visible()) {
                let ends = file.path.match_indices('/').map(|(at, _)| at).chain(std::iter::once(file.path.len()));
                if ends.into_iter().any(|end| matches(&file.path[..end])) {
                    (any, *wanted) = (true, true);
                }
            }
            if !any {
                bail!("--select {text} matches no file of \"{}\": `swarmfs info` lists them", meta.name.escape_debug());
            }
        }
        Ok(Self { files: Some(files) })
    }

    /// The files of these indices, as a magnet link selects them (BEP 53); all of them if it selects none that are there.
    pub(crate) fn of_indices(meta: &Metainfo, select: Option<&[Range<u32>]>) -> Self {
        let selected = |index: usize| {
            let ranges = select.unwrap_or_default().iter();
            u32::try_from(index).is_ok_and(|index| ranges.into_iter().any(|range| range.contains(&index)))
        };
        let files: Vec<bool> = (0..meta.files.len()).map(selected).collect();
        Self { files: Some(files).filter(|files| files.contains(&true)) }
    }

    /// The torrent bytes of these files; none: all.
    pub(crate) fn bytes(&self, meta: &Metainfo) -> Option<Vec<Range<u64>>> {
        self.files.as_ref().map(|_| self.of(meta).filter(|file| file.length > 0).map(File::bytes).collect())
    }

    /// How many they are, and their bytes.
    pub(crate) fn size(&self, meta: &Metainfo) -> (usize, u64) {
        (self.of(meta).count(), self.of(meta).map(|file| file.length).sum())
    }

    /// The bytes of pieces that these files need and that are not in `have`.
    pub(crate) fn missing(&self, meta: &Metainfo, have: &[bool]) -> u64 {
        let all = || std::iter::once(0..meta.geometry.total()).collect();
        let ranges = self.bytes(meta).unwrap_or_else(all);
        let (mut next, mut missing) = (0, 0);
        for pieces in ranges.into_iter().filter_map(|bytes| meta.geometry.covering(bytes)) {
            // Files are in torrent order, and neighbours share pieces.
            for piece in (pieces.start.max(next)..pieces.end).filter_map(|piece| meta.geometry.piece(piece)) {
                if have.get(piece.0 as usize) != Some(&true) {
                    missing += u64::from(meta.geometry.piece_length(piece));
                }
            }
            next = next.max(pieces.end);
        }
        missing
    }

    fn of<'a>(&'a self, meta: &'a Metainfo) -> impl Iterator<Item = &'a File> {
        let wanted = |index: usize| self.files.as_ref().is_none_or(|files| files.get(index) == Some(&true));
        meta.files
            .iter()
            .enumerate()
            .filter(move |(index, file)| file.visible() && wanted(*index))
            .map(|(_, file)| file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A torrent of these files, 10 bytes each, in pieces of 16 bytes.
    fn torrent(paths: &[&str]) -> Metainfo {
        let mut info = String::from("d4:infod5:filesl");
        for path in paths {
            let parts: String = path.split('/').map(|part| format!("{}:{part}", part.len())).collect();
            info.push_str(&format!("d6:lengthi10e4:pathl{parts}ee"));
        }
        let pieces = (paths.len() * 10).div_ceil(16);
        info.push_str(&format!("e4:name5:album12:piece lengthi16e6:pieces{}:", pieces * 20));
        let bytes = [info.as_bytes(), &vec![7; pieces * 20], b"ee"].concat();
        Metainfo::parse(&bytes).unwrap()
    }

    fn selected(globs: &[&str]) -> Vec<String> {
        let paths = ["a.mkv", "b [1].txt", "docs/a.txt", "docs/deep/c.txt", "photos/docs/d.raw", "x"];
        let meta = torrent(&paths);
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        let selection = Selection::new(&meta, &globs).unwrap();
        selection.of(&meta).map(|file| file.path.to_string()).collect()
    }

    #[test]
    fn globs_match_paths_names_and_directories() {
        assert_eq!(selected(&[]).len(), 6);
        assert_eq!(selected(&["*.mkv"]), ["a.mkv"]);
        assert_eq!(selected(&["*.txt"]), ["b [1].txt", "docs/a.txt", "docs/deep/c.txt"]);
        assert_eq!(selected(&["docs/*.txt"]), ["docs/a.txt"]);
        assert_eq!(selected(&["docs/**/*.txt"]), ["docs/a.txt", "docs/deep/c.txt"]);
        assert_eq!(selected(&["docs"]), ["docs/a.txt", "docs/deep/c.txt", "photos/docs/d.raw"]);
        assert_eq!(selected(&["docs/deep/", "x"]), ["docs/deep/c.txt", "x"]);
        assert_eq!(selected(&["{a,c}.*"]), ["a.mkv", "docs/a.txt", "docs/deep/c.txt"]);
        assert_eq!(selected(&["b [1].txt"]), ["b [1].txt"], "what is there by that very name");
    }

    #[test]
    fn what_matches_nothing_is_named() {
        let meta = torrent(&["a", "b"]);
        let refused = |glob: &str| Selection::new(&meta, &["a".into(), glob.into()]).unwrap_err().to_string();
        assert_eq!(refused("*.iso"), "--select *.iso matches no file of \"album\": `swarmfs info` lists them");
        assert!(refused("[").starts_with("--select [: "), "{}", refused("["));
    }

    #[test]
    fn missing_bytes_are_those_of_pieces_and_count_once() {
        let meta = torrent(&["a", "b", "c", "d"]);
        // Pieces: 0 holds a and 6 bytes of b, 1 the rest of b, c and 2 bytes of d, 2 the rest of d.
        let missing = |globs: &[&str], have: [bool; 3]| {
            let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
            Selection::new(&meta, &globs).unwrap().missing(&meta, &have)
        };
        assert_eq!(missing(&[], [false; 3]), 40);
        assert_eq!(missing(&["a", "b"], [false; 3]), 32);
        assert_eq!(missing(&["d"], [false, true, false]), 8);
        assert_eq!(missing(&["c"], [false, true, false]), 0);
        assert_eq!(Selection::new(&meta, &["[cd]".into()]).unwrap().size(&meta), (2, 20));
    }
}
