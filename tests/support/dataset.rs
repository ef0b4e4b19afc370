//! The bytes that the tests share: the same on every machine, built once under a lock and kept in the target directory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{installed, shell, succeed};
use super::{MIB, Random};

/// Raised when the content changes, so that an old copy is not used.
const VERSION: u32 = 4;

/// One file of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct FileEntry {
    /// Relative to the dataset's root.
    pub(crate) path: String,
    pub(crate) length: u64,
    pub(crate) executable: bool,
}

/// A directory of files.
#[derive(Clone, Debug)]
pub(crate) struct Dataset {
    /// The directory that holds the root: what a seed gets as its data directory.
    pub(crate) parent: PathBuf,
    /// The root's name, and so the torrent's.
    pub(crate) name: String,
    /// In torrent order: sorted by path.
    pub(crate) files: Vec<FileEntry>,
}

impl Dataset {
    /// About 20 MiB in 41 files: nested, unicode names, empty ones, one of 12 MiB.
    pub(crate) fn small() -> Self {
        Self::cached("small", "Kleine Sammlung", |root| {
            let mut random = Random::new(1);
            noise(&root.join("large.bin"), 12 * MIB + 4321, &mut random);
            for n in 0..8 {
                noise(&root.join(format!("photos/{n:02}.raw")), MIB - 3 + n, &mut random);
            }
            for n in 0..20 {
                text(&root.join(format!("docs/{}/note {n}.txt", n % 3)), 400 + n * 777, &mut random);
            }
            unicode(root, 8, 10_000, &mut random);
            for n in 0..3 {
                noise(&root.join(format!("empty/{n}")), 0, &mut random);
            }
            script(root);
        })
    }

    /// 1.1 GiB in 300 files, as issue trackers' torrents are: one of 700 MiB, a video, a database, text, empty files.
    pub(crate) fn big() -> Self {
        Self::cached("big", "Große Sammlung", |root| {
            let mut random = Random::new(2);
            noise(&root.join("disk image/large.bin"), 700 * MIB + 12_345, &mut random);
            for n in 0..120 {
                noise(&root.join(format!("photos/{}/{n:03}.raw", n / 20)), MIB + random.below(4 * MIB), &mut random);
            }
            for n in 0..136 {
                text(&root.join(format!("docs/{}/{}/note {n}.txt", n % 4, n % 7)), random.below(60_000), &mut random);
            }
            unicode(root, 30, 200_000, &mut random);
            for n in 0..10 {
                noise(&root.join(format!("empty/{n}")), 0, &mut random);
            }
            script(root);
            video(&root.join("media/clip.mkv"), &mut random);
            database(&root.join("data/table.sqlite"), &mut random);
        })
    }

    /// One file of noise, `noise.bin`.
    pub(crate) fn noise(length: u64) -> Self {
        Self::cached(&format!("noise-{length}"), "noise", |root| {
            noise(&root.join("noise.bin"), length, &mut Random::new(7));
        })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    pub(crate) fn length(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    /// The largest file's path in the root.
    pub(crate) fn largest(&self) -> &FileEntry {
        self.files.iter().max_by_key(|file| file.length).expect("a file")
    }

    /// The output of `sha256sum` over all files, made once.
    pub(crate) fn sums(&self) -> PathBuf {
        self.kept("sha256sums", |path| {
            let line = "cd \"$1\" && find . -type f -print0 | sort -z | xargs -0 sha256sum > \"$2\"";
            shell(line, &[&self.root(), path], Duration::from_secs(120));
        })
    }

    /// A file beside the root that is made once, by whichever test comes first.
    pub(crate) fn kept(&self, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let path = self.parent.join(name);
        let _lock = lock(&self.parent.join(format!("{name}.lock")));
        if !path.exists() {
            let unfinished = self.parent.join(format!("{name}.unfinished"));
            make(&unfinished);
            std::fs::rename(&unfinished, &path).expect("the file in place");
        }
        path
    }

    fn cached(kind: &str, name: &str, build: impl FnOnce(&Path)) -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let parent = base.join(format!("dataset-{kind}-{VERSION}"));
        let lock = lock(&base.join(format!("dataset-{kind}.lock")));
        if !parent.exists() {
            let unfinished = base.join(format!("dataset-{kind}.unfinished"));
            let _ = std::fs::remove_dir_all(&unfinished);
            let root = unfinished.join(name);
            std::fs::create_dir_all(&root).expect("a directory");
            build(&root);
            std::fs::rename(&unfinished, &parent).expect("the dataset in place");
        }
        drop(lock);
        let mut files = Vec::new();
        list(&parent.join(name), "", &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { parent, name: name.to_owned(), files }
    }
}

/// Held until the file is dropped, against other threads and processes.
fn lock(path: &Path) -> File {
    let file = File::create(path).expect("a lock file");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("the lock");
    file
}

fn list(dir: &Path, prefix: &str, files: &mut Vec<FileEntry>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a UTF-8 name");
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let meta = entry.metadata().expect("its metadata");
        if meta.is_dir() {
            list(&entry.path(), &path, files);
        } else {
            let executable = meta.permissions().mode() & 0o100 != 0;
            files.push(FileEntry { path, length: meta.len(), executable });
        }
    }
}

fn create(path: &Path) -> BufWriter<File> {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    BufWriter::with_capacity(1 << 20, File::create(path).expect("a file"))
}

fn noise(path: &Path, length: u64, random: &mut Random) {
    let mut out = create(path);
    let mut left = length;
    let mut chunk = vec![0; 64 << 10];
    while left > 0 {
        let now = left.min(64 << 10);
        random.fill(&mut chunk);
        out.write_all(&chunk[..usize::try_from(now).expect("a chunk")]).expect("bytes");
        left -= now;
    }
    out.flush().expect("bytes");
}

fn text(path: &Path, length: u64, random: &mut Random) {
    const WORDS: [&str; 12] = [
        "torrent",
        "piece",
        "block",
        "seed",
        "leecher",
        "choke",
        "interested",
        "tracker",
        "Füße",
        "needle",
        "swarm",
        "availability",
    ];
    let mut text = String::new();
    while u64::try_from(text.len()).expect("a length") < length {
        let word = WORDS[usize::try_from(random.below(12)).expect("an index")];
        text.push_str(word);
        text.push(if random.below(9) == 0 { '\n' } else { ' ' });
    }
    create(path).write_all(text.as_bytes()).expect("text");
}

fn unicode(root: &Path, count: u64, most: u64, random: &mut Random) {
    const NAMES: [&str; 10] = [
        "Größe",
        "日本語の文書",
        "emoji 😀🎉",
        "עברית",
        "русский",
        "naïve café",
        "spaces  and 'quotes' #1 & 100%",
        "ελληνικά",
        "-leading dash",
        "e\u{301} combining",
    ];
    for n in 0..count {
        let name = NAMES[usize::try_from(n % 10).expect("an index")];
        noise(&root.join(format!("unicode/{name}/{name} {n}.bin")), random.below(most), random);
    }
}

fn script(root: &Path) {
    let path = root.join("bin/hello.sh");
    create(&path).write_all(b"#!/bin/sh\necho hello from the swarm\n").expect("a script");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("its mode");
}

/// A real video where ffmpeg is there, else noise under the same name (tests/run says so).
fn video(path: &Path, random: &mut Random) {
    if !installed("ffmpeg") {
        return noise(path, MIB, random);
    }
    drop(create(path));
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-loglevel", "error", "-y", "-f", "lavfi", "-i", "testsrc=duration=6:size=640x360:rate=25"]);
    ffmpeg.args(["-f", "lavfi", "-i", "sine=frequency=440:duration=6", "-c:v", "mpeg4", "-q:v", "2", "-c:a", "aac"]);
    succeed(ffmpeg.args(["-threads", "1", "-bitexact"]).arg(path), Duration::from_secs(60));
}

fn database(path: &Path, random: &mut Random) {
    if !installed("python3") {
        return noise(path, MIB, random);
    }
    drop(create(path));
    let code = "import sqlite3, sys\n\
        base = sqlite3.connect(sys.argv[1])\n\
        base.execute('create table numbers (n integer primary key, square integer, name text)')\n\
        base.executemany('insert into numbers values (?, ?, ?)', ((n, n * n, f'number {n}') for n in range(60000)))\n\
        base.execute('create index by_name on numbers (name)')\n\
        base.commit()\n\
        base.close()\n";
    succeed(Command::new("python3").args(["-c", code]).arg(path), Duration::from_secs(60));
}
