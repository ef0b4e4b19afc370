//! Magnet links (BEP 9): a mount answers at once, shows a torrent when its metadata is there, and keeps it; peers that lie
//! about metadata, or trickle it, hold up nobody for long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use swarmfs::wire::{ExtendedHandshake, METADATA_PIECE, Message, MetadataMessage, OUR_METADATA_ID, decode};

use crate::support::dataset::Dataset;
use crate::support::gets::{get, seed, succeeds};
use crate::support::mounts::mount;
use crate::support::peer::handshake;
use crate::support::process::{output, swarmfs};
use crate::support::reading::assert_same_bytes;
use crate::support::torrent::Torrent;
use crate::support::{loopback, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

fn link(torrent: &Torrent, peers: &[SocketAddr]) -> PathBuf {
    let peers: String = peers.iter().map(|peer| format!("&x.pe={peer}")).collect();
    format!("magnet:?xt=urn:btih:{}&dn=a%20link{peers}", torrent.hex()).into()
}

/// What a peer without the torrent does with requests for its metadata.
#[derive(Clone, Copy)]
enum Manner {
    /// Gives bytes that are not the torrent's.
    Lies,
    /// Claims the largest size, and gives the first part only.
    Boasts,
    /// Rejects every request.
    Refuses,
    /// Says nothing.
    IsSilent,
    /// Gives this, which is what the link names.
    Gives(&'static [u8]),
}

/// A peer with metadata of its own making, for every connection that it gets.
struct Pretender {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Pretender {
    fn start(torrent: &Torrent, manner: Manner) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(loopback(), 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let (counter, hash, length) = (Arc::clone(&asked), torrent.info_hash, torrent.info.len());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || converse(stream, &hash, length, manner, &counter));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn converse(mut stream: TcpStream, hash: &[u8; 20], length: usize, manner: Manner, asked: &AtomicUsize) -> Option<()> {
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs).ok()?;
    let mut ours = handshake(hash);
    ours[25] |= 0x10;
    let size = if let Manner::Boasts = manner { 16 << 20 } else { length as u64 };
    let hello = ExtendedHandshake { metadata_id: Some(9), metadata_size: Some(size), ..ExtendedHandshake::default() };
    Message::HaveNone.encode(&mut ours);
    Message::Extended { id: 0, payload: hello.encode().into() }.encode(&mut ours);
    stream.write_all(&ours).ok()?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some((message, used)) = decode(&bytes, 1).ok()? {
            let mut answer = Vec::new();
            if let Message::Extended { id: 9, payload } = &message
                && let Ok(MetadataMessage::Request(piece)) = MetadataMessage::decode(payload)
            {
                asked.fetch_add(1, Ordering::SeqCst);
                let left = usize::try_from(size).expect("16 MiB") - piece as usize * METADATA_PIECE as usize;
                let data = vec![0x5A; left.min(METADATA_PIECE as usize)];
                let reply = match manner {
                    Manner::Lies => Some(MetadataMessage::Data { piece, total: Some(size), data: &data }),
                    Manner::Boasts if piece == 0 => {
                        Some(MetadataMessage::Data { piece, total: Some(size), data: &data })
                    }
                    Manner::Refuses => Some(MetadataMessage::Reject(piece)),
                    Manner::Gives(data) => Some(MetadataMessage::Data { piece, total: Some(size), data }),
                    Manner::Boasts | Manner::IsSilent => None,
                };
                if let Some(reply) = reply {
                    Message::Extended { id: OUR_METADATA_ID, payload: reply.encode().into() }.encode(&mut answer);
                }
            }
            bytes.drain(..used);
            stream.write_all(&answer).ok()?;
        }
        let count = stream.read(&mut buffer).ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// A seed of the small dataset, and its torrent.
fn seeded(dir: &Path) -> (Dataset, Torrent, crate::support::process::Running, SocketAddr) {
    let dataset = Dataset::small();
    let torrent = Torrent::of(&dataset, 16 << 10);
    let file = torrent.write(dir, None);
    let root = dataset.root();
    let (process, address) = seed(&file, root.parent().expect("its parent"), dir, &[]);
    wait_until(LIMIT, "it seeds", || process.log().contains("seeding"));
    (dataset, torrent, process, address)
}

#[test]
fn a_torrent_appears_when_its_metadata_is_there_and_the_next_time_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (dataset, torrent, seed, address) = seeded(dir.path());
    let cache = dir.path().join("cache");
    let options = ["--cache-dir", cache.to_str().expect("a plain path"), "--read-timeout", "20s"];
    let first = mount(&[&link(&torrent, &[address])]).args(&options).start();
    // `start` has waited until the root lists it.
    assert_same_bytes(&dataset, &first.path(&dataset.name));
    assert!(first.log().contains("its metadata is there"), "{}", first.log());
    drop(first);
    // Metadata is kept though nothing is read.
    let unread = dir.path().join("unread");
    let unread = ["--cache-dir", unread.to_str().expect("a plain path")];
    mount(&[&link(&torrent, &[address])]).args(&unread).start().terminate(Duration::from_secs(5));
    let again = mount(&[&link(&torrent, &[])]).args(&unread).start();
    assert!(!again.log().contains("its metadata is awaited"), "{}", again.log());
    drop(again);
    drop(seed);
    let hash: PathBuf = torrent.hex().into();
    let second = mount(&[&hash]).args(&options).start();
    assert_same_bytes(&dataset, &second.path(&dataset.name));
    assert!(!second.log().contains("its metadata is awaited"), "{}", second.log());
    // `info` finds it there, too, while the mount uses the directory.
    let info = |more: &[&str]| {
        let info = output(swarmfs().arg("info").arg(&hash).args(more), Duration::from_secs(5));
        String::from_utf8(info.stdout).expect("UTF-8")
    };
    let known = info(&options[..2]);
    assert!(known.contains(&dataset.name) && known.contains("piece length  16384 bytes"), "{known}");
    let nowhere = info(&["--cache-dir", dir.path().join("none").to_str().expect("a plain path")]);
    assert!(nowhere.contains("awaited"), "{nowhere}");
}

#[test]
fn a_dead_link_blocks_nothing_and_the_log_says_what_is_awaited() {
    let dir = tempfile::tempdir().expect("a directory");
    let (dataset, torrent, _seed, address) = seeded(dir.path());
    let file = torrent.write(dir.path(), None);
    let dead = Torrent::dead("dead", &[("x", 1)], 16 << 10);
    // Only one of the two appears: `start` waits for both, so this one is counted by hand.
    let mut mounted = mount(&[&file]).peer(address).args(&[link(&dead, &[]).to_str().expect("text")]).start();
    assert_same_bytes(&dataset, &mounted.path(&dataset.name));
    assert!(mounted.log().contains("its metadata is awaited: looking for peers"), "{}", mounted.log());
    let (status, _) = mounted.terminate(Duration::from_secs(5));
    assert!(status.success());
}

/// Metadata that has the hash and describes no torrent: nobody is kept for it.
#[test]
fn metadata_that_cannot_be_used_is_given_up() {
    const USELESS: &[u8] = b"d6:lengthi1e4:name1:a12:piece lengthi0e6:pieces0:e";
    let dir = tempfile::tempdir().expect("a directory");
    let (dataset, good, _seed, address) = seeded(dir.path());
    let file = good.write(dir.path(), None);
    let torrent = Torrent::from_info("a", USELESS.to_vec(), 1, 1);
    let peer = Pretender::start(&torrent, Manner::Gives(USELESS));
    let link = link(&torrent, &[peer.address]);
    let mounted = mount(&[&file]).peer(address).args(&["-v", "-v", link.to_str().expect("text")]).start();
    for line in ["it cannot be mounted", "piece length", "disconnected: the torrent is given up"] {
        wait_until(LIMIT, line, || mounted.log().contains(line));
    }
    // Who asks for it is told what anybody is who asks for a torrent that is not here.
    let mut stream = TcpStream::connect(mounted.address).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream.write_all(&handshake(&torrent.info_hash)).expect("a handshake");
    assert!(matches!(stream.read(&mut [0; 68]), Ok(0) | Err(_)), "it does not answer");
    assert!(mounted.log().contains("a torrent that we do not have"), "{}", mounted.log());
    assert_same_bytes(&dataset, &mounted.path(&dataset.name));
}

#[test]
fn honest_metadata_wins_over_liars() {
    let dir = tempfile::tempdir().expect("a directory");
    let (dataset, torrent, _seed, address) = seeded(dir.path());
    let manners = [Manner::Lies, Manner::Lies, Manner::Boasts, Manner::Refuses, Manner::IsSilent];
    let pretenders = manners.map(|manner| Pretender::start(&torrent, manner));
    let peers: Vec<SocketAddr> = pretenders.iter().map(|one| one.address).chain([address]).collect();
    let started = Instant::now();
    let mounted = mount(&[&link(&torrent, &peers)]).start();
    println!("it appeared after {:?}", started.elapsed());
    assert!(pretenders.iter().map(Pretender::asked).sum::<usize>() > 0, "somebody was asked");
    assert_same_bytes(&dataset, &mounted.path(&dataset.name));
}

#[test]
fn get_fetches_what_a_link_selects() {
    let dir = tempfile::tempdir().expect("a directory");
    let (dataset, torrent, _seed, address) = seeded(dir.path());
    let into = dir.path().join("copy");
    let link = format!("{}&so=1", link(&torrent, &[address]).display());
    succeeds(get(Path::new(&link), &into, &[], &[]));
    let copied = |index: usize| {
        let path = &dataset.files[index].path;
        std::fs::read(into.join(&dataset.name).join(path)).ok() == std::fs::read(dataset.root().join(path)).ok()
    };
    assert!(copied(1), "{}", dataset.files[1].path);
    let there = |index: &usize| into.join(&dataset.name).join(&dataset.files[*index].path).exists();
    assert_eq!((0..dataset.files.len()).filter(there).collect::<Vec<_>>(), [1], "and nothing else");
}

#[test]
fn metadata_is_served_to_who_has_none_and_only_as_often_as_it_has_a_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_dataset, torrent, _seed, address) = seeded(dir.path());
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let mut ours = handshake(&torrent.info_hash);
    ours[25] |= 0x10;
    let hello = ExtendedHandshake { metadata_id: Some(5), ..ExtendedHandshake::default() };
    Message::HaveNone.encode(&mut ours);
    Message::Extended { id: 0, payload: hello.encode().into() }.encode(&mut ours);
    // Four times as often as there are parts, and some more.
    let parts = torrent.info.len().div_ceil(METADATA_PIECE as usize);
    let asks = 4 * parts + 20;
    for ask in 0..asks {
        let piece = u32::try_from(ask % (parts + 1)).expect("a part");
        let request = MetadataMessage::Request(piece).encode();
        Message::Extended { id: OUR_METADATA_ID, payload: request.into() }.encode(&mut ours);
    }
    stream.write_all(&ours).expect("sent");
    stream.read_exact(&mut [0; 68]).expect("a handshake");
    let pieces = u32::try_from(torrent.length.div_ceil(torrent.piece_length)).expect("pieces");
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let (mut given, mut rejected, mut size) = (0, 0, None);
    while given + rejected < asks {
        let read = stream.read(&mut buffer);
        let count = read.unwrap_or_else(|e| panic!("{e} after {given} parts and {rejected} rejects of {asks}"));
        assert!(count > 0, "it closed after {given} parts and {rejected} rejects");
        bytes.extend_from_slice(&buffer[..count]);
        while let Some((message, used)) = decode(&bytes, pieces).expect("messages") {
            match &message {
                Message::Extended { id: 0, payload } => {
                    size = ExtendedHandshake::decode(payload).expect("a handshake").metadata_size;
                }
                Message::Extended { id: 5, payload } => match MetadataMessage::decode(payload).expect("an answer") {
                    MetadataMessage::Data { piece, data, .. } => {
                        let start = piece as usize * METADATA_PIECE as usize;
                        assert_eq!(data, &torrent.info[start..torrent.info.len().min(start + METADATA_PIECE as usize)]);
                        given += 1;
                    }
                    MetadataMessage::Reject(_) => rejected += 1,
                    other => panic!("{other:?}"),
                },
                _ => {}
            }
            bytes.drain(..used);
        }
    }
    assert_eq!(size, Some(torrent.info.len() as u64));
    assert!(given <= 4 * parts + 4 && rejected > 0, "{given} given, {rejected} rejected");
    wait_until(LIMIT, "the connection stays", || stream.peer_addr().is_ok());
}
