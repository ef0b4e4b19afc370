use super::*;
use crate::metainfo::{File, Geometry, InfoHash};

fn torrent(id: u8, name: &str, files: &[(&str, u64)]) -> Arc<Metainfo> {
    let mut offset = 0;
    let files = files.iter().map(|&(path, length)| {
        let file = File { path: path.into(), offset, length, kind: FileKind::Regular { executable: false } };
        offset += length;
        file
    });
    let files: Vec<File> = files.collect();
    Arc::new(Metainfo {
        id: TorrentId { v1: Some(InfoHash([id; 20])), v2: None },
        name: name.to_owned(),
        single_file: false,
        geometry: Geometry::new(offset.max(1), 16384).expect("sizes are fine"),
        piece_hashes: Vec::new().into(),
        info: Arc::default(),
        files,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        private: false,
        comment: None,
        created_by: None,
        creation_date: Some(1_000_000_000),
    })
}

fn keyed(torrents: &[Arc<Metainfo>]) -> Vec<(TorrentKey, Arc<Metainfo>)> {
    (0..).map(TorrentKey).zip(torrents.iter().cloned()).collect()
}

/// Every path of a tree by walking it, with its attributes.
fn walk(tree: &Tree) -> Vec<(String, Attr)> {
    let mut found = Vec::new();
    let mut open = vec![(Inode::ROOT, String::new())];
    while let Some((directory, path)) = open.pop() {
        for index in 0.. {
            let Some((attr, name)) = tree.entry(directory, index) else { break };
            assert_eq!(tree.lookup(directory, name.as_bytes()), Some(attr));
            assert_eq!(tree.attr(attr.inode), Some(attr));
            assert_eq!(tree.parent(attr.inode), Some(directory));
            let path = format!("{path}/{name}");
            if attr.kind == NodeKind::Directory {
                open.push((attr.inode, path.clone()));
            }
            found.push((path, attr));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn every_path_is_there_once_and_leads_to_its_bytes() {
    let files = [("b/x", 10), ("a", 0), ("b!/x", 3), ("b/c/d", 7), ("ä/é", 5), ("b/a", 1)];
    let tree = Tree::new(&keyed(&[torrent(1, "t", &files)]));
    let paths: Vec<String> = walk(&tree).into_iter().map(|(path, _)| path).collect();
    let expected =
        ["/t", "/t/a", "/t/b", "/t/b!", "/t/b!/x", "/t/b/a", "/t/b/c", "/t/b/c/d", "/t/b/x", "/t/ä", "/t/ä/é"];
    assert_eq!(paths, expected);
    let attr = |path: &str| {
        path.split('/').skip(1).try_fold(Inode::ROOT, |at, name| Some(tree.lookup(at, name.as_bytes())?.inode))
    };
    assert_eq!(tree.file(attr("/t/b/c/d").expect("it is there")).map(|f| f.bytes), Some(13..20));
    assert_eq!(tree.attr(attr("/t/b").expect("it is there")).map(|a| a.links), Some(3));
    assert_eq!(tree.attr(Inode::ROOT).map(|a| a.links), Some(3));
    assert_eq!((tree.bytes(), tree.inodes()), (26, 12));
    for absent in ["", "t/", ".", "..", "nothing", "b"] {
        assert_eq!(tree.lookup(Inode::ROOT, absent.as_bytes()), None);
    }
    for nobody in [Inode(0), Inode(2), Inode(u64::MAX), Inode(attr("/t").map_or(0, |i| i.0 + 999))] {
        assert_eq!((tree.attr(nobody), tree.entry(nobody, 0), tree.file(nobody)), (None, None, None));
    }
}

#[test]
fn a_file_that_is_hidden_is_not_there() {
    let mut metainfo = Arc::unwrap_or_clone(torrent(1, "t", &[("a", 1), (".pad/1", 2), ("link", 0), ("z/run", 4)]));
    metainfo.files[1].kind = FileKind::Pad;
    metainfo.files[2].kind = FileKind::Symlink { target: "z/run".into() };
    metainfo.files[3].kind = FileKind::Regular { executable: true };
    let tree = Tree::new(&keyed(&[Arc::new(metainfo)]));
    let found: Vec<_> = walk(&tree).into_iter().map(|(path, attr)| (path, attr.kind, attr.size)).collect();
    let expected = [
        ("/t".to_owned(), NodeKind::Directory, 0),
        ("/t/a".to_owned(), NodeKind::Regular { executable: false }, 1),
        ("/t/link".to_owned(), NodeKind::Symlink, 5),
        ("/t/z".to_owned(), NodeKind::Directory, 0),
        ("/t/z/run".to_owned(), NodeKind::Regular { executable: true }, 4),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        tree.lookup(Inode::ROOT, b"t").and_then(|t| tree.lookup(t.inode, b"link")).and_then(|l| tree.link(l.inode)),
        Some("z/run")
    );
}

#[test]
fn torrents_of_one_name_get_their_hash_and_then_a_number() {
    let mut single = Arc::unwrap_or_clone(torrent(1, "t", &[("t", 9)]));
    single.single_file = true;
    let torrents = [torrent(2, "t", &[]), Arc::new(single), torrent(1, "t", &[]), torrent(3, "t (01010101)", &[])];
    let tree = Tree::new(&keyed(&torrents));
    let names: Vec<String> = walk(&tree).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["/t", "/t (01010101)", "/t (01010101) (03030303)", "/t (01010101) (2)"]);
    let single = tree.lookup(Inode::ROOT, b"t (01010101)").expect("it is there");
    assert_eq!(tree.file(single.inode).map(|f| (f.torrent, f.bytes)), Some((TorrentKey(1), 0..9)));
}

#[test]
fn a_long_name_leaves_room_for_what_tells_it_apart() {
    let long = "é".repeat(127);
    let tree = Tree::new(&keyed(&[torrent(1, &long, &[]), torrent(2, &long, &[])]));
    let names: Vec<usize> = (0..2).filter_map(|i| tree.entry(Inode::ROOT, i)).map(|(_, name)| name.len()).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|length| (250..=NAME_MAX).contains(length)), "{names:?}");
}

#[test]
fn inode_numbers_do_not_depend_on_the_order_of_torrents() {
    let (a, b) = (torrent(1, "a", &[("x/y", 1), ("z", 2)]), torrent(2, "b", &[("x", 1)]));
    let number = |torrents: &[Arc<Metainfo>]| -> Vec<(String, u64)> {
        walk(&Tree::new(&keyed(torrents))).into_iter().map(|(path, attr)| (path, attr.inode.0)).collect()
    };
    let both = number(&[a.clone(), b.clone()]);
    assert_eq!(both, number(&[b.clone(), a.clone()]));
    let distinct: BTreeSet<u64> = both.iter().map(|(_, inode)| *inode).collect();
    assert_eq!(distinct.len(), both.len());
    assert!(number(&[b]).iter().all(|one| both.contains(one)));
}

#[test]
fn prefixes_that_collide_are_moved_apart() {
    let mut taken = BTreeSet::new();
    let prefixes = [0_u8, 0, 255, 255].map(|id| {
        let id = TorrentId { v1: Some(InfoHash([id; 20])), v2: None };
        free_prefix(id, |prefix| !taken.insert(prefix))
    });
    let last = u64::MAX >> NODE_BITS;
    assert_eq!(prefixes, [1, 2, last, 3]);
}

#[test]
fn a_torrent_that_comes_later_changes_nothing_of_what_is_there() {
    let first = Tree::new(&keyed(&[torrent(2, "m", &[("x", 1)]), torrent(3, "z", &[("x", 2)])]));
    let late = torrent(1, "m", &[("y", 4)]);
    let second = first.and(TorrentKey(9), &late);
    let names = |tree: &Tree| -> Vec<String> {
        (0..).map_while(|n| tree.entry(Inode::ROOT, n)).map(|(_, name)| name.to_owned()).collect()
    };
    assert_eq!(names(&first), ["m", "z"]);
    // Behind the others: a program that is listing them misses none and sees none twice.
    assert_eq!(names(&second), ["m", "z", "m (01010101)"]);
    let (before, after) = (walk(&first), walk(&second));
    assert!(before.iter().all(|one| after.contains(one)));
    assert_eq!(after.len(), before.len() + 2);
    assert_eq!((first.bytes(), second.bytes(), second.attr(Inode::ROOT).map(|a| a.links)), (3, 7, Some(5)));
}

proptest::proptest! {
    #[test]
    fn a_tree_holds_exactly_its_files(paths in proptest::collection::btree_set("[ab!]{1,2}(/[ab!]{1,2}){0,3}", 0..30)) {
        // A path that is also a directory would not come out of metainfo.
        let clear = |path: &String| !paths.iter().any(|other| other.starts_with(&format!("{path}/")));
        let paths: Vec<&str> = paths.iter().filter(|p| clear(p)).map(String::as_str).collect();
        let files: Vec<(&str, u64)> = paths.iter().zip(1..).map(|(path, length)| (*path, length)).collect();
        let tree = Tree::new(&keyed(&[torrent(7, "t", &files)]));
        let found: BTreeSet<String> =
            walk(&tree).into_iter().filter(|(_, a)| a.kind != NodeKind::Directory).map(|(path, _)| path).collect();
        let expected: BTreeSet<String> = paths.iter().map(|path| format!("/t/{path}")).collect();
        proptest::prop_assert_eq!(found, expected);
    }
}
