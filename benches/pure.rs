//! Medians of the hot paths that touch no socket: the wire codec, a cache hit, a piece that is filled and hashed, and what
//! the swarm decides per block, per message and per read.
//!
//! cargo bench --bench pure -- [PART OF A NAME] [--save-baseline NAME | --baseline NAME]

use std::borrow::Cow;
use std::hint::black_box;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sha1::{Digest, Sha1};
use swarmfs::cache::{Cache, Filled, PieceBuf, Place, Pool, Unverified, Verified};
use swarmfs::config::Fill;
use swarmfs::metainfo::{BLOCK_LENGTH, Geometry, PieceIndex, Request};
use swarmfs::swarm::{Connected, Effect, HandleId, Input, Outgoing, PeerKey, Receipt, Room, Setup, Swarm, TorrentKey};
use swarmfs::wire::{self, Message, PeerId};

const BLOCK: usize = BLOCK_LENGTH as usize;
const MIB: u32 = 1 << 20;
const TORRENT: TorrentKey = TorrentKey(1);
const HANDLE: HandleId = HandleId(1);

/// Bytes that look random and are the same in every run.
fn noise(length: usize) -> Vec<u8> {
    (0u32..).take(length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

fn request(piece: u32, block: u32) -> Request {
    Request { piece: PieceIndex(piece), begin: block * BLOCK_LENGTH, length: BLOCK_LENGTH }
}

fn codec(c: &mut Criterion) {
    let pieces = Geometry::MAX_PIECES;
    let (block, bits) = (noise(BLOCK), noise(pieces as usize / 8));
    let messages = [
        ("request", Message::Request(request(7, 3))),
        ("have", Message::Have(PieceIndex(70_000))),
        ("piece of 16 KiB", Message::Piece { piece: PieceIndex(7), begin: 0, data: &block }),
        ("bitfield of 2,097,152", Message::Bitfield(Cow::Borrowed(&bits))),
    ];
    let mut group = c.benchmark_group("wire");
    for (name, message) in messages {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function(format!("decode {name}"), |b| b.iter(|| wire::decode(black_box(&encoded), pieces)));
        let mut out = Vec::with_capacity(encoded.len());
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| {
                out.clear();
                message.encode(black_box(&mut out));
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("header of a piece", |b| b.iter(|| wire::piece_header(black_box(request(7, 3)))));
    group.finish();
}

/// Fills a piece in this order of blocks.
fn fill(bytes: &[u8], hash: [u8; 20], pool: &Arc<Pool>, order: impl Iterator<Item = u32>) -> Verified {
    let length = u32::try_from(bytes.len()).expect("a short piece");
    let piece = PieceBuf::new(length, hash, &Place::Memory, pool).expect("memory");
    for index in order {
        let begin = index as usize * BLOCK;
        let block = &bytes[begin..(begin + BLOCK).min(bytes.len())];
        match piece.fill(index * BLOCK_LENGTH, block).expect("a block") {
            Filled::Done(verified) => return verified,
            Filled::More => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("a block is missing");
}

fn pieces(c: &mut Criterion) {
    let bytes = noise(MIB as usize);
    let (hash, pool): ([u8; 20], _) = (Sha1::digest(&bytes).into(), Pool::new());
    let blocks = MIB / BLOCK_LENGTH;
    let mut group = c.benchmark_group("piece of 1 MiB");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("SHA-1 alone", |b| b.iter(|| Sha1::digest(black_box(&bytes))));
    group.bench_function("filled in order", |b| b.iter(|| fill(&bytes, hash, &pool, 0..blocks)));
    group.bench_function("filled with the first block last", |b| {
        b.iter(|| fill(&bytes, hash, &pool, (1..blocks).chain(0..1)));
    });
    group.bench_function("the last block after a gap at the first", |b| {
        let prepare = || {
            let piece = PieceBuf::new(MIB, hash, &Place::Memory, &pool).expect("memory");
            for index in 1..blocks {
                let begin = index as usize * BLOCK;
                piece.fill(index * BLOCK_LENGTH, &bytes[begin..begin + BLOCK]).expect("a block");
            }
            piece
        };
        b.iter_batched(prepare, |piece| piece.fill(0, &bytes[..BLOCK]), BatchSize::LargeInput);
    });
    // What the engine does with the pieces of a fast stream.
    let whole = || {
        let piece = PieceBuf::hashed_when_whole(MIB, hash, &Place::Memory, &pool).expect("memory");
        let filled = (0..blocks).zip(bytes.chunks(BLOCK)).map(|(index, data)| piece.fill(index * BLOCK_LENGTH, data));
        match filled.last() {
            Some(Ok(Filled::Whole(whole))) => whole,
            other => panic!("{other:?}"),
        }
    };
    group.throughput(Throughput::Bytes((Unverified::BATCH * bytes.len()) as u64));
    group.bench_function("a batch of whole ones", |b| {
        let batch = || (0..Unverified::BATCH).map(|_| whole()).collect();
        b.iter_batched(batch, Unverified::verify, BatchSize::LargeInput);
    });
    group.finish();
}

/// Pieces of 1 MiB in a cache.
fn cached(count: u32) -> Cache {
    let (cache, pool, bytes) = (Cache::new(1 << 30), Pool::new(), noise(MIB as usize));
    let hash = Sha1::digest(&bytes).into();
    for index in 0..count {
        let piece = fill(&bytes, hash, &pool, 0..MIB / BLOCK_LENGTH);
        cache.insert(TORRENT, PieceIndex(index), Arc::new(piece));
    }
    cache
}

fn hits(c: &mut Criterion) {
    let cache = cached(64);
    let mut group = c.benchmark_group("cache");
    let mut n = 0;
    let mut next = move || {
        n = (n + 13) % 64;
        PieceIndex(n)
    };
    group.bench_function("get", |b| b.iter(|| cache.get(TORRENT, next())));
    group.bench_function("peek", |b| b.iter(|| cache.peek(TORRENT, next())));
    group.bench_function("get what is not there", |b| b.iter(|| cache.get(TORRENT, PieceIndex(100))));
    // What the engine does for a read of 128 KiB that one piece answers; and if it has to be copied.
    let mut answer = vec![0; 128 << 10];
    group.throughput(Throughput::Bytes(answer.len() as u64));
    group.bench_function("128 KiB in place", |b| {
        b.iter(|| {
            let piece = cache.get(TORRENT, next()).expect("it is there");
            black_box(piece.bytes().and_then(|bytes| bytes.get(512 << 10..640 << 10)).map(<[u8]>::len))
        });
    });
    group.bench_function("128 KiB copied", |b| {
        b.iter(|| {
            let piece = cache.get(TORRENT, next()).expect("it is there");
            piece.read_at(512 << 10, black_box(&mut answer)).expect("in memory");
        });
    });
    group.finish();
}

/// A swarm whose engine is this program.
struct Lab {
    swarm: Swarm,
    now: Instant,
    asked: Vec<Vec<Request>>,
    received: Vec<u32>,
}

impl Lab {
    /// So many seeds that have unchoked us.
    fn new(pieces: u32, piece: u64, fill: Fill, seeds: usize) -> Self {
        let geometry = Geometry::new(u64::from(pieces) * piece, piece).expect("a geometry");
        let now = Instant::now();
        let setup = Setup { fill, reqq: 2000, ..Setup::new(geometry) };
        let mut lab = Self {
            swarm: Swarm::new(setup, now),
            now,
            asked: vec![Vec::new(); seeds],
            received: vec![0; pieces as usize],
        };
        for seed in 0..seeds {
            lab.connect(seed);
            lab.says(seed, &Message::HaveAll);
            lab.says(seed, &Message::Unchoke);
        }
        lab.settle();
        lab
    }

    fn connect(&mut self, peer: usize) {
        let addr = SocketAddr::from(([10, 0, 0, 1], u16::try_from(peer + 1).unwrap_or(0)));
        let peer = PeerKey(peer as u64);
        let connected = Connected { peer, addr, id: PeerId([1; 20]), fast: true, outgoing: true };
        self.input(Input::Connected(connected));
    }

    fn says(&mut self, peer: usize, message: &Message<'_>) {
        self.input(Input::Message(PeerKey(peer as u64), message));
    }

    fn input(&mut self, input: Input<'_>) {
        self.swarm.handle(self.now, input);
        self.effects();
    }

    /// Memory is granted, wakes come by themselves.
    fn effects(&mut self) {
        while let Some(effect) = self.swarm.poll() {
            if let Effect::WantMemory(bytes) = effect {
                self.swarm.handle(self.now, Input::Grant(bytes));
            }
        }
    }

    fn transmit(&mut self, peer: usize) {
        let mut out = Vec::new();
        let room = Room { total: 1 << 18, payload: 1 << 18 };
        self.swarm.transmit(self.now, PeerKey(peer as u64), room, &mut out);
        self.effects();
        self.asked[peer].extend(out.into_iter().filter_map(|outgoing| match outgoing {
            Outgoing::Message(Message::Request(request)) => Some(request),
            _ => None,
        }));
    }

    /// Until nothing is to be counted any more, everybody having taken what there is.
    fn settle(&mut self) {
        while self.swarm.next_timeout().is_some_and(|at| at <= self.now) {
            self.input(Input::Timeout);
        }
        (0..self.asked.len()).for_each(|peer| self.transmit(peer));
    }

    /// One socket read of 16 blocks from a peer, the pieces that they complete, and what is asked for in return.
    fn blocks(&mut self, peer: usize) -> usize {
        self.now += Duration::from_micros(64);
        let take = self.asked[peer].len().min(16);
        let requests: Vec<Request> = self.asked[peer].drain(..take).collect();
        for &request in &requests {
            if let Receipt::Keep { .. } = self.swarm.receive(self.now, PeerKey(peer as u64), request) {
                let count = &mut self.received[request.piece.0 as usize];
                *count += 1;
                if *count == 16 {
                    self.input(Input::PieceVerified(request.piece));
                }
            }
        }
        self.transmit(peer);
        take
    }
}

fn swarm(c: &mut Criterion) {
    let mut group = c.benchmark_group("swarm");
    // 16,000 blocks in pieces of 256 KiB: requests, receipts, verified pieces, credit.
    for (name, seeds) in [("4 seeds", 4), ("200 seeds", 200)] {
        group.throughput(Throughput::Elements(16_000));
        group.sample_size(20);
        group.bench_function(format!("16,000 blocks from {name}"), |b| {
            b.iter_batched_ref(
                || Lab::new(1_000, 256 << 10, Fill::All, seeds),
                |lab| {
                    let mut idle = 0;
                    for peer in (0..seeds).cycle() {
                        idle = if lab.blocks(peer) == 0 { idle + 1 } else { 0 };
                        if lab.swarm.complete() || idle > 1_000 {
                            break;
                        }
                    }
                    assert!(lab.swarm.complete(), "{} of 1,000 pieces", lab.swarm.there());
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.sample_size(100);
    group.throughput(Throughput::Elements(1));
    group.bench_function("hit in order, 200 seeds", |b| {
        let mut lab = Lab::new(4_000, 256 << 10, Fill::Open, 200);
        lab.input(Input::Open(HANDLE, 0..4_000 * (256 << 10)));
        let mut at = 0;
        b.iter(|| {
            let bytes: Range<u64> = at..at + (128 << 10);
            at = bytes.end % (4_000 * (256 << 10));
            lab.input(Input::Hit(HANDLE, bytes));
        });
    });
    group.bench_function("have", |b| {
        let mut lab = flooded(8);
        let mut n = 0u32;
        b.iter(|| {
            n = n.wrapping_add(7_919) % Geometry::MAX_PIECES;
            lab.says((n % 8) as usize, &Message::Have(PieceIndex(n)));
        });
    });
    group.bench_function("choke and unchoke, 200 seeds", |b| {
        let mut lab = Lab::new(4_000, 256 << 10, Fill::All, 200);
        b.iter(|| {
            lab.says(7, &Message::Choke);
            lab.says(7, &Message::Unchoke);
        });
    });
    group.finish();
}

/// Peers with half of 2,097,152 pieces each.
fn flooded(peers: usize) -> Lab {
    let mut lab = Lab::new(Geometry::MAX_PIECES, 64 << 10, Fill::Open, 0);
    let bits = noise(Geometry::MAX_PIECES as usize / 8);
    for peer in 0..peers {
        lab.asked.push(Vec::new());
        lab.connect(peer);
        lab.says(peer, &Message::Bitfield(Cow::Borrowed(&bits)));
        lab.says(peer, &Message::Unchoke);
    }
    lab.settle();
    lab
}

/// The picker, seen through a swarm of 2,097,152 pieces.
fn picker(c: &mut Criterion) {
    let mut group = c.benchmark_group("2,097,152 pieces");
    let bits = noise(Geometry::MAX_PIECES as usize / 8);
    group.sample_size(20);
    group.bench_function("bitfield told", |b| {
        b.iter_batched_ref(
            || {
                let mut lab = Lab::new(Geometry::MAX_PIECES, 64 << 10, Fill::Open, 0);
                lab.connect(0);
                lab
            },
            |lab| lab.says(0, &Message::Bitfield(Cow::Borrowed(&bits))),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("bitfield counted, 512 steps", |b| {
        b.iter_batched_ref(
            || {
                let mut lab = Lab::new(Geometry::MAX_PIECES, 64 << 10, Fill::Open, 0);
                lab.connect(0);
                lab.says(0, &Message::Bitfield(Cow::Borrowed(&bits)));
                lab
            },
            Lab::settle,
            BatchSize::LargeInput,
        );
    });
    group.bench_function("bitfield sent", |b| {
        b.iter_batched_ref(
            || {
                let mut lab = Lab::new(Geometry::MAX_PIECES, 64 << 10, Fill::Open, 0);
                lab.input(Input::PieceVerified(PieceIndex(5)));
                lab.asked.push(Vec::new());
                lab.connect(0);
                lab
            },
            |lab| lab.transmit(0),
            BatchSize::LargeInput,
        );
    });
    // The first pick puts the window in order; the next ones take from it.
    let wanting = || {
        let mut lab = Lab::new(Geometry::MAX_PIECES, 64 << 10, Fill::All, 0);
        lab.asked.push(Vec::new());
        lab.connect(0);
        lab.says(0, &Message::Bitfield(Cow::Borrowed(&bits)));
        while lab.swarm.next_timeout().is_some_and(|at| at <= lab.now) {
            lab.input(Input::Timeout);
        }
        lab.transmit(0);
        lab.says(0, &Message::Unchoke);
        lab
    };
    group.bench_function("first pick of the background", |b| {
        b.iter_batched_ref(wanting, |lab| lab.transmit(0), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, codec, pieces, hits, swarm, picker);
criterion_main!(benches);
