//! Where a torrent's bytes lie in its directory of the store: a file of 1 MiB or more has one to itself, so that it can
//! be passed through to the kernel; all smaller ones share one, so that 500,000 files are not 500,000 inodes. Padding
//! (BEP 47) lies nowhere.

use std::ops::Range;

use crate::metainfo::{FileKind, Geometry, Metainfo, PieceIndex};

/// A file of the torrent that is as large as this has a file of the store to itself, bytes.
pub(super) const LARGE: u64 = 1 << 20;

/// A file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum FileNumber {
    /// What all small files share.
    Small,
    /// The file of the torrent with this index.
    Large(u32),
}

impl FileNumber {
    /// Its name in the directory.
    pub(super) fn name(self) -> String {
        match self {
            Self::Small => "small".to_owned(),
            Self::Large(index) => index.to_string(),
        }
    }

    /// What a name in the directory stands for, if it is one that [`FileNumber::name`] makes.
    pub(super) fn of(name: &str) -> Option<Self> {
        let number = if name == "small" { Self::Small } else { Self::Large(name.parse().ok()?) };
        (number.name() == name).then_some(number)
    }
}

/// Bytes of the torrent that lie one behind the other in a file of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extent {
    /// The torrent bytes.
    bytes: Range<u64>,
    /// Where they lie; none for padding.
    file: Option<(FileNumber, u64)>,
}

/// A part of one extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The file and the offset in it; none for padding, which is zeros.
    pub(super) file: Option<(FileNumber, u64)>,
    /// Where it lies in the range that was asked for, bytes.
    pub(super) part: Range<usize>,
}

/// The places of a torrent's bytes.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) geometry: Geometry,
    /// In torrent order, without a gap.
    extents: Box<[Extent]>,
    /// Those of the small files, in the order of the file that they share.
    small: Box<[u32]>,
    /// Those of the large files, in the order of their numbers.
    large: Box<[u32]>,
}

impl Layout {
    pub(super) fn new(meta: &Metainfo) -> Self {
        let mut extents: Vec<Extent> = Vec::new();
        let mut small_end = 0;
        for (index, file) in (0..).zip(&meta.files).filter(|(_, file)| file.length > 0) {
            let place = match file.kind {
                FileKind::Pad => None,
                _ if file.length >= LARGE => Some((FileNumber::Large(index), 0)),
                _ => {
                    small_end += file.length;
                    Some((FileNumber::Small, small_end - file.length))
                }
            };
            let continues = |last: &Extent| match (last.file, place) {
                (None, None) => true,
                (Some((FileNumber::Small, at)), Some((FileNumber::Small, next))) => {
                    at + (last.bytes.end - last.bytes.start) == next
                }
                _ => false,
            };
            match extents.last_mut().filter(|last| continues(last)) {
                Some(last) => last.bytes.end = file.bytes().end,
                None => extents.push(Extent { bytes: file.bytes(), file: place }),
            }
        }
        let of = |wanted: fn(&FileNumber) -> bool| {
            let matching = (0..).zip(&extents).filter(|(_, extent)| extent.file.is_some_and(|(file, _)| wanted(&file)));
            matching.map(|(index, _)| index).collect()
        };
        let (small, large) = (of(|file| *file == FileNumber::Small), of(|file| *file != FileNumber::Small));
        Self { geometry: meta.geometry, extents: extents.into(), small, large }
    }

    /// The parts of a range of torrent bytes, in order.
    pub(super) fn spans(&self, bytes: Range<u64>) -> impl Iterator<Item = Span> + '_ {
        let first = self.extents.partition_point(|extent| extent.bytes.end <= bytes.start);
        let within = self.extents[first..].iter().take_while({
            let end = bytes.end;
            move |extent| extent.bytes.start < end
        });
        within.filter_map(move |extent| {
            let (start, end) = (extent.bytes.start.max(bytes.start), extent.bytes.end.min(bytes.end));
            let at = |byte: u64| usize::try_from(byte - bytes.start).ok();
            Some(Span {
                file: extent.file.map(|(file, offset)| (file, offset + (start - extent.bytes.start))),
                part: at(start)?..at(end)?,
            })
        })
    }

    /// The torrent bytes of a piece.
    pub(super) fn piece_bytes(&self, piece: PieceIndex) -> Range<u64> {
        let start = self.geometry.piece_offset(piece);
        start..start + u64::from(self.geometry.piece_length(piece))
    }

    /// The file of the store that holds exactly these torrent bytes from its beginning, if there is one.
    pub(super) fn file_of(&self, bytes: &Range<u64>) -> Option<FileNumber> {
        let at = self.extents.partition_point(|extent| extent.bytes.end <= bytes.start);
        let extent = self.extents.get(at).filter(|extent| extent.bytes == *bytes)?;
        extent.file.map(|(file, _)| file).filter(|file| matches!(file, FileNumber::Large(_)))
    }

    /// True if any piece whose bytes lie in a range of a file of the store satisfies `test`.
    pub(super) fn any_in(&self, file: FileNumber, range: Range<u64>, test: impl Fn(PieceIndex) -> bool) -> bool {
        let number = |index: &u32| self.extents.get(*index as usize)?.file.map(|(file, _)| file);
        let (list, first) = match file {
            FileNumber::Large(_) => (&self.large, self.large.partition_point(|index| number(index) < Some(file))),
            FileNumber::Small => {
                let end = |extent: &Extent| Some(extent.file?.1 + extent.length());
                let before = |index: &u32| self.extents.get(*index as usize).and_then(end) <= Some(range.start);
                (&self.small, self.small.partition_point(before))
            }
        };
        let extents = list[first..].iter().filter_map(|&index| self.extents.get(index as usize));
        let mut within = extents.map_while(|extent| {
            let (_, at) = extent.file.filter(|&(own, at)| own == file && at < range.end)?;
            let cut = |byte: u64| extent.bytes.start + byte.saturating_sub(at).min(extent.length());
            Some(cut(range.start)..cut(range.end))
        });
        within.any(|bytes| self.geometry.pieces_of(bytes).any(&test))
    }
}

impl Extent {
    fn length(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::data::tests::torrent;

    /// Per torrent byte: the file and the offset.
    fn naive(files: &[(u64, bool)]) -> Vec<Option<(FileNumber, u64)>> {
        let (mut out, mut small) = (Vec::new(), 0);
        for (index, &(length, pad)) in (0..).zip(files) {
            for at in 0..length {
                out.push(match (pad, length >= LARGE) {
                    (true, _) => None,
                    (false, true) => Some((FileNumber::Large(index), at)),
                    (false, false) => Some((FileNumber::Small, small + at)),
                });
            }
            small += if pad || length >= LARGE { 0 } else { length };
        }
        out
    }

    fn files() -> impl Strategy<Value = Vec<(u64, bool)>> {
        let length = prop_oneof![3 => 0..5000_u64, 1 => LARGE - 1..LARGE + 3000];
        proptest::collection::vec((length, proptest::bool::weighted(0.2)), 1..6)
            .prop_filter("bytes", |files| files.iter().any(|file| file.0 > 0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_byte_has_its_own_place(
            files in files(), piece_length in 100_u32..40_000, cuts in proptest::collection::vec(any::<u32>(), 8)
        ) {
            let entries: Vec<_> = files.iter().map(|&(length, pad)| {
                let kind = if pad { FileKind::Pad } else { FileKind::Regular { executable: false } };
                ("f", length as usize, kind)
            }).collect();
            let meta = torrent("t", false, piece_length, &entries).meta;
            let (layout, naive) = (Layout::new(&meta), naive(&files));
            let total = naive.len() as u64;
            for pair in cuts.windows(2) {
                let (a, b) = (u64::from(pair[0]) % total, u64::from(pair[1]) % total);
                let bytes = a.min(b)..a.max(b) + 1;
                let mut at = 0;
                for span in layout.spans(bytes.clone()) {
                    prop_assert_eq!(span.part.start, at);
                    at = span.part.end;
                    for byte in [span.part.start, span.part.end - 1] {
                        let place = span.file.map(|(file, offset)| (file, offset + (byte - span.part.start) as u64));
                        prop_assert_eq!(place, naive[bytes.start as usize + byte]);
                    }
                }
                prop_assert_eq!(at as u64, bytes.end - bytes.start);
                // The pieces of a range of a file, the other way round.
                let Some((file, offset)) = naive[a as usize] else { continue };
                let range = offset..offset + 4096;
                let mut pieces: Vec<u32> = (0..total)
                    .filter(|&byte| naive[byte as usize].is_some_and(|(f, o)| f == file && range.contains(&o)))
                    .map(|byte| meta.geometry.piece_at(byte).0).collect();
                pieces.dedup();
                for piece in meta.geometry.all() {
                    let there = layout.any_in(file, range.clone(), |p| p == piece);
                    prop_assert_eq!(there, pieces.contains(&piece.0), "{:?} {:?} {:?}", file, range, piece);
                }
            }
        }
    }

    #[test]
    fn only_a_large_file_is_a_file_of_its_own() {
        let kind = FileKind::Regular { executable: false };
        let files = [("a", 100, kind.clone()), ("b", LARGE as usize, kind.clone()), ("c", 7, kind)];
        let layout = Layout::new(&torrent("t", false, 1000, &files).meta);
        assert_eq!(layout.file_of(&(100..100 + LARGE)), Some(FileNumber::Large(1)));
        assert_eq!((layout.file_of(&(0..100)), layout.file_of(&(100..1000))), (None, None));
        let names = [FileNumber::Large(1), FileNumber::Small].map(FileNumber::name);
        assert!(names.iter().all(|name| FileNumber::of(name).is_some_and(|file| file.name() == *name)));
        assert_eq!(["01", "+1", "index", "", "4294967296"].map(FileNumber::of), [None; 5]);
    }
}
