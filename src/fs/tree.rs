//! PURE. The directory tree of the mounted torrents: a value that never changes, so that no metadata call waits. A torrent
//! that comes later makes a new tree, which shares what was there.
//!
//! Each torrent is a [`Branch`]: an array of nodes in breadth-first order, where the children of a directory are
//! neighbours, sorted by name. A lookup is a binary search among them, and the n-th entry of a directory is found at once.
//! Names are not copied: a node points into the path of one of the files below it.
//!
//! An inode number is 38 bits of the torrent's info-hash above 26 bits of the node's place in its torrent, so it is the
//! same in every mount of the same torrents, and no number is ever given to something else. The root is 1.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::metainfo::{FileKind, Metainfo, TorrentId};
use crate::swarm::TorrentKey;

/// The longest file name of Linux, bytes.
const NAME_MAX: usize = 255;
/// Bits of an inode number that count the nodes of a torrent. A .torrent file of 64 MiB, the largest that is read, cannot
/// name 2^26 files and directories.
const NODE_BITS: u32 = 26;

/// An inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u64);

impl Inode {
    /// The directory that holds every torrent.
    pub const ROOT: Self = Self(1);

    fn new(prefix: u64, node: u32) -> Self {
        Self(prefix << NODE_BITS | u64::from(node))
    }

    fn prefix(self) -> u64 {
        self.0 >> NODE_BITS
    }

    fn node(self) -> usize {
        usize::try_from(self.0 & ((1 << NODE_BITS) - 1)).unwrap_or(usize::MAX)
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// Bytes of a torrent.
    Regular {
        /// The executable bit.
        executable: bool,
    },
    /// A symbolic link.
    Symlink,
}

/// What stat shows of an inode, as far as the torrent says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub inode: Inode,
    /// What it is.
    pub kind: NodeKind,
    /// Bytes; of a symlink those of its target, of a directory 0.
    pub size: u64,
    /// Names that lead to it; of a directory 2 and one for each directory in it.
    pub links: u32,
    /// The torrent's creation date, seconds since 1970.
    pub created: Option<i64>,
}

/// Where the bytes of a regular file lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpan {
    /// The torrent.
    pub torrent: TorrentKey,
    /// Its bytes in the torrent.
    pub bytes: Range<u64>,
}

/// The tree of all torrents of a mount.
#[derive(Debug)]
pub struct Tree {
    /// In the order in which they are listed: those of the start by name, and behind them those that came later.
    branches: Vec<Arc<Branch>>,
    /// Name to index in `branches`.
    names: BTreeMap<String, usize>,
    /// Inode prefix to index in `branches`.
    prefixes: BTreeMap<u64, usize>,
    links: u32,
    nodes: u64,
    bytes: u64,
}

/// One torrent.
#[derive(Debug)]
struct Branch {
    key: TorrentKey,
    /// Its name in the root directory.
    name: String,
    prefix: u64,
    metainfo: Arc<Metainfo>,
    /// The first is the torrent's own directory or its single file.
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// Index of the file itself or, for a directory, of one that is below it.
    file: u32,
    /// The name's place in that file's path.
    name: (u32, u16),
    content: NodeContent,
}

#[derive(Clone, Copy, Debug)]
enum NodeContent {
    File,
    Directory { first: u32, count: u32, directories: u32 },
}

impl Tree {
    /// The tree of these torrents. Of two that share a name the later gets ` (first 8 digits of its info-hash)`.
    #[must_use]
    pub fn new(torrents: &[(TorrentKey, Arc<Metainfo>)]) -> Self {
        let mut order: Vec<&(TorrentKey, Arc<Metainfo>)> = torrents.iter().collect();
        let mut names = Names::default();
        let named: BTreeMap<TorrentKey, String> =
            torrents.iter().map(|(key, metainfo)| (*key, names.unique(metainfo))).collect();
        // In the order of ids, so that the same torrents get the same prefixes in whatever order they come.
        order.sort_unstable_by_key(|(_, metainfo)| metainfo.id);
        let mut taken = BTreeSet::new();
        let branch = |(key, metainfo): &(TorrentKey, Arc<Metainfo>)| {
            let prefix = free_prefix(metainfo.id, |prefix| !taken.insert(prefix));
            Branch::new(*key, named.get(key).cloned().unwrap_or_default(), prefix, metainfo)
        };
        let mut branches: Vec<Branch> = order.into_iter().map(branch).collect();
        branches.sort_by(|a, b| a.name.cmp(&b.name));
        Self::of(branches.into_iter().map(Arc::new).collect())
    }

    /// This tree and one torrent more. What is there keeps its name, its number and its place in the list.
    #[must_use]
    pub fn and(&self, key: TorrentKey, metainfo: &Arc<Metainfo>) -> Self {
        let mut names = Names(self.names.keys().cloned().collect());
        let prefix = free_prefix(metainfo.id, |prefix| self.prefixes.contains_key(&prefix));
        let branch = Branch::new(key, names.unique(metainfo), prefix, metainfo);
        Self::of(self.branches.iter().cloned().chain([Arc::new(branch)]).collect())
    }

    fn of(mut branches: Vec<Arc<Branch>>) -> Self {
        branches.retain(|branch| !branch.nodes.is_empty());
        let directories = branches.iter().filter(|b| b.attr(0).is_some_and(|a| a.kind == NodeKind::Directory)).count();
        let visible = |b: &Arc<Branch>| b.metainfo.files.iter().filter(|f| f.visible()).map(|f| f.length).sum::<u64>();
        Self {
            names: branches.iter().enumerate().map(|(index, b)| (b.name.clone(), index)).collect(),
            prefixes: branches.iter().enumerate().map(|(index, b)| (b.prefix, index)).collect(),
            links: u32::try_from(directories).unwrap_or(u32::MAX).saturating_add(2),
            nodes: branches.iter().map(|b| b.nodes.len() as u64).sum::<u64>() + 1,
            bytes: branches.iter().map(visible).sum(),
            branches,
        }
    }

    fn branch(&self, inode: Inode) -> Option<&Branch> {
        self.branches.get(*self.prefixes.get(&inode.prefix())?).map(|branch| &**branch)
    }

    /// What stat shows; none if there is no such inode.
    #[must_use]
    pub fn attr(&self, inode: Inode) -> Option<Attr> {
        if inode == Inode::ROOT {
            return Some(Attr { inode, kind: NodeKind::Directory, size: 0, links: self.links, created: None });
        }
        self.branch(inode)?.attr(inode.node())
    }

    /// The entry of a directory with this name.
    #[must_use]
    pub fn lookup(&self, parent: Inode, name: &[u8]) -> Option<Attr> {
        if parent == Inode::ROOT {
            let found = self.names.get(str::from_utf8(name).ok()?)?;
            return self.branches.get(*found)?.attr(0);
        }
        let branch = self.branch(parent)?;
        let children = branch.children(parent.node())?;
        let below = branch.nodes.get(children.clone())?;
        let found = below.binary_search_by(|node| branch.name(node).as_bytes().cmp(name)).ok()?;
        branch.attr(children.start + found)
    }

    /// The directory that holds this inode; the root's is the root.
    #[must_use]
    pub fn parent(&self, inode: Inode) -> Option<Inode> {
        if inode == Inode::ROOT {
            return Some(inode);
        }
        let branch = self.branch(inode)?;
        let node = branch.nodes.get(inode.node())?;
        Some(if inode.node() == 0 { Inode::ROOT } else { Inode::new(branch.prefix, node.parent) })
    }

    /// The `index`-th entry of a directory; none past the last. Below a torrent they are in the order of names.
    #[must_use]
    pub fn entry(&self, directory: Inode, index: usize) -> Option<(Attr, &str)> {
        if directory == Inode::ROOT {
            let branch = self.branches.get(index)?;
            return Some((branch.attr(0)?, &branch.name));
        }
        let branch = self.branch(directory)?;
        let children = branch.children(directory.node())?;
        let at = children.start.checked_add(index).filter(|at| *at < children.end)?;
        Some((branch.attr(at)?, branch.name(branch.nodes.get(at)?)))
    }

    /// Where the bytes of a regular file lie; none for anything else.
    #[must_use]
    pub fn file(&self, inode: Inode) -> Option<FileSpan> {
        let branch = self.branch(inode)?;
        let file = branch.file(inode.node())?;
        matches!(file.kind, FileKind::Regular { .. }).then(|| FileSpan { torrent: branch.key, bytes: file.bytes() })
    }

    /// The target of a symlink.
    #[must_use]
    pub fn link(&self, inode: Inode) -> Option<&str> {
        match &self.branch(inode)?.file(inode.node())?.kind {
            FileKind::Symlink { target } => Some(target),
            _ => None,
        }
    }

    /// The torrent that an inode belongs to; none for the root.
    #[must_use]
    pub fn torrent(&self, inode: Inode) -> Option<(TorrentKey, TorrentId)> {
        let branch = self.branch(inode)?;
        branch.nodes.get(inode.node()).map(|_| (branch.key, branch.metainfo.id))
    }

    /// Every torrent.
    pub fn torrents(&self) -> impl Iterator<Item = TorrentKey> + '_ {
        self.branches.iter().map(|b| b.key)
    }

    /// Files, directories and links, the root among them.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        self.nodes
    }

    /// Bytes of all visible files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Branch {
    fn new(key: TorrentKey, name: String, prefix: u64, metainfo: &Arc<Metainfo>) -> Self {
        Self { key, name, prefix, metainfo: Arc::clone(metainfo), nodes: Self::nodes(metainfo) }
    }

    /// The nodes of a torrent. Each directory's files lie side by side once the paths are sorted by component, so one
    /// pass over the growing array, directory by directory, finds them all.
    fn nodes(metainfo: &Metainfo) -> Vec<Node> {
        let indices = 0..u32::try_from(metainfo.files.len()).unwrap_or(u32::MAX);
        let path = |file: u32| metainfo.files.get(file as usize).map_or("", |f| &*f.path);
        let mut files: Vec<u32> = indices.filter(|&i| metainfo.files[i as usize].visible()).collect();
        if metainfo.single_file {
            return files
                .first()
                .map(|&file| Node { parent: 0, file, name: (0, 0), content: NodeContent::File })
                .into_iter()
                .collect();
        }
        files.sort_by(|&a, &b| components(path(a)).cmp(components(path(b))));
        let empty = NodeContent::Directory { first: 0, count: 0, directories: 0 };
        let mut nodes = vec![Node { parent: 0, file: 0, name: (0, 0), content: empty }];
        // Directories whose entries are still to come: the node, its files in `files`, the length of its path.
        let mut open = std::collections::VecDeque::from([(0_u32, 0..files.len(), 0_usize)]);
        while let Some((parent, mut range, depth)) = open.pop_front() {
            let first = nodes.len();
            let mut directories = 0;
            while let Some(&file) = files.get(range.clone()).and_then(|f| f.first()) {
                let Some(name) = path(file).get(depth..).and_then(|rest| rest.split('/').next()) else { break };
                let end = depth + name.len();
                let of_name = |other: &u32| {
                    let other = path(*other).as_bytes();
                    other.get(depth..end) == Some(name.as_bytes()) && other.get(end).is_none_or(|b| *b == b'/')
                };
                let group = files[range.clone()].iter().take_while(|f| of_name(f)).count().max(1);
                let node = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                let inner = files[range.start..range.start + group].iter().position(|&f| path(f).len() > end);
                // A file and a directory of one name cannot both be there; metainfo has renamed one. Were it not so, the
                // directory would hide the file.
                let content = if let Some(skip) = inner {
                    open.push_back((node, range.start + skip..range.start + group, end + 1));
                    directories += 1;
                    empty
                } else {
                    NodeContent::File
                };
                let place = u32::try_from(depth).unwrap_or(u32::MAX);
                let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
                let file = files[range.start + inner.unwrap_or(0)];
                nodes.push(Node { parent, file, name: (place, length), content });
                range.start += group;
            }
            let count = nodes.len() - first;
            if let (Some(directory), Ok(first), Ok(count)) =
                (nodes.get_mut(parent as usize), u32::try_from(first), u32::try_from(count))
            {
                directory.content = NodeContent::Directory { first, count, directories };
            }
        }
        nodes.shrink_to_fit();
        nodes
    }

    fn name(&self, node: &Node) -> &str {
        let (start, length) = (node.name.0 as usize, usize::from(node.name.1));
        self.metainfo.files.get(node.file as usize).and_then(|f| f.path.get(start..start + length)).unwrap_or("")
    }

    fn children(&self, node: usize) -> Option<Range<usize>> {
        match self.nodes.get(node)?.content {
            NodeContent::Directory { first, count, .. } => Some(first as usize..first as usize + count as usize),
            NodeContent::File => None,
        }
    }

    fn file(&self, node: usize) -> Option<&crate::metainfo::File> {
        let node = self.nodes.get(node)?;
        match node.content {
            NodeContent::File => self.metainfo.files.get(node.file as usize),
            NodeContent::Directory { .. } => None,
        }
    }

    fn attr(&self, at: usize) -> Option<Attr> {
        let node = self.nodes.get(at)?;
        let inode = Inode::new(self.prefix, u32::try_from(at).ok()?);
        let (kind, size, links) = match node.content {
            NodeContent::Directory { directories, .. } => (NodeKind::Directory, 0, directories.saturating_add(2)),
            NodeContent::File => {
                let file = self.metainfo.files.get(node.file as usize)?;
                match &file.kind {
                    FileKind::Regular { executable } => (NodeKind::Regular { executable: *executable }, file.length, 1),
                    FileKind::Symlink { target } => (NodeKind::Symlink, target.len() as u64, 1),
                    FileKind::Pad | FileKind::Hidden => return None,
                }
            }
        };
        Some(Attr { inode, kind, size, links, created: self.metainfo.creation_date })
    }
}

/// The components of a path, in whose order a directory's files are neighbours.
fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
}

/// The inode prefix of a torrent: bits of its id, or the next number after them that is not `taken`.
fn free_prefix(id: TorrentId, mut taken: impl FnMut(u64) -> bool) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.wire();
    let mut prefix = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> NODE_BITS;
    // 0 is where the root is.
    while prefix == 0 || taken(prefix) {
        prefix = (prefix + 1) & (u64::MAX >> NODE_BITS);
    }
    prefix
}

/// The names that are taken in the root directory.
#[derive(Debug, Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// The torrent's name, unlike all others and no longer than [`NAME_MAX`]; it is taken from now on.
    fn unique(&mut self, metainfo: &Metainfo) -> String {
        let short = metainfo.id.short();
        let suffixes = std::iter::once(format!(" ({short})")).chain((2..).map(|n| format!(" ({short}) ({n})")));
        let name = std::iter::once(String::new())
            .chain(suffixes)
            .map(|suffix| format!("{}{suffix}", cut(&metainfo.name, NAME_MAX - suffix.len())))
            .find(|name| !self.0.contains(name))
            .unwrap_or_default();
        self.0.insert(name.clone());
        name
    }
}

/// The longest start of `name` that has at most `length` bytes and ends between characters.
fn cut(name: &str, length: usize) -> &str {
    let end = (0..=length.min(name.len())).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    &name[..end]
}

#[cfg(test)]
mod tests;
