//! Read-ahead, background and memory.

use super::*;

/// Reads a range in order in 128 KiB reads, as the kernel does, and returns the time it took.
fn stream(lab: &mut Lab, handle: HandleId, bytes: Range<u64>) -> Duration {
    let began = lab.now;
    let mut at = bytes.start;
    while at < bytes.end {
        let part = at..(at + (128 << 10)).min(bytes.end);
        let there = lab.swarm.geometry.pieces_of(part.clone()).all(|p| lab.swarm.has(p));
        if there {
            lab.input(Input::Hit(handle, part.clone()));
        } else {
            let id = lab.read_through(handle, part.clone(), secs(60));
            assert_eq!(lab.wait(id), Ok(()));
        }
        at = part.end;
    }
    lab.now - began
}

#[test]
fn a_stream_runs_at_the_speed_of_the_swarm() {
    let mut lab = Lab::new(256, 16 * BLOCK, Fill::None);
    lab.seed(Character::Serves { rate: 10_000_000, latency: ms(50) });
    lab.open();
    let took = stream(&mut lab, H, 0..64 << 20);
    assert!(took < ms(8_000), "64 MiB at 10 MB/s took {took:?}");
}

#[test]
fn read_ahead_stays_in_bounds_and_ends_with_the_file() {
    let mut lab = Lab::with_files(4 * BLOCK, Fill::None, vec![0..200 * BLOCK, 200 * BLOCK..400 * BLOCK]);
    lab.seed(serves(10_000_000));
    lab.input(Input::Open(H, 0..200 * BLOCK));
    stream(&mut lab, H, 0..100 * BLOCK);
    lab.run(secs(5));
    assert!(lab.fetched.iter().all(|p| p.0 < 50), "{:?}", lab.fetched.last());
    stream(&mut lab, H, 100 * BLOCK..200 * BLOCK);
    lab.run(secs(5));
    assert_eq!(lab.fetched.len(), 50);
    assert_eq!(lab.granted, 0, "nothing is held when nothing is fetched");
}

#[test]
fn a_seek_cancels_what_it_left() {
    let mut lab = Lab::new(1_000, 4 * BLOCK, Fill::None);
    let peer = lab.seed(serves(4_000_000));
    lab.open();
    stream(&mut lab, H, 0..100 * BLOCK);
    assert!(lab.pending(peer).len() > 20);
    let at = 3_000 * BLOCK;
    let id = lab.read(at..at + 100);
    assert!(lab.pending(peer).iter().all(|r| r.piece == PieceIndex(750)), "{:?}", lab.pending(peer));
    assert_eq!(lab.wait(id), Ok(()));
}

#[test]
fn two_streams_of_one_handle_keep_their_windows() {
    let mut lab = Lab::new(1_000, 4 * BLOCK, Fill::None);
    lab.seed(serves(20_000_000));
    lab.open();
    for step in 0..20 {
        for base in [0, 2_000 * BLOCK] {
            let at = base + step * 8 * BLOCK;
            stream(&mut lab, H, at..at + 8 * BLOCK);
        }
    }
    lab.run(ms(200));
    let (low, high) = (lab.fetched.range(..PieceIndex(500)).count(), lab.fetched.range(PieceIndex(500)..).count());
    assert!(low > 50 && high > 50, "{low} {high}: both were read ahead of");
}

#[test]
fn flush_stops_read_ahead_until_the_next_read_and_close_ends_it() {
    let mut lab = Lab::new(1_000, 4 * BLOCK, Fill::Open);
    let peer = lab.seed(serves(4_000_000));
    lab.open();
    stream(&mut lab, H, 0..200 * BLOCK);
    assert!(!lab.pending(peer).is_empty());
    lab.input(Input::Flush(H));
    assert!(lab.pending(peer).is_empty());
    stream(&mut lab, H, 200 * BLOCK..216 * BLOCK);
    assert!(!lab.pending(peer).is_empty());
    lab.input(Input::Close(H));
    assert!(lab.pending(peer).is_empty());
    lab.run(secs(40));
    assert_eq!((lab.granted, lab.swarm.partials.len()), (0, 0));
}

#[test]
fn small_files_read_in_order_are_read_ahead_of() {
    let size = 6 * BLOCK;
    let files: Vec<Range<u64>> = (0..200).map(|n| n * size..(n + 1) * size).collect();
    let mut lab = Lab::with_files(4 * BLOCK, Fill::None, files.clone());
    lab.seed(Character::Serves { rate: 10_000_000, latency: ms(50) });
    let mut took = Vec::new();
    for (n, file) in (2..).zip(&files) {
        let handle = HandleId(n);
        lab.input(Input::Open(handle, file.clone()));
        took.push(stream(&mut lab, handle, file.clone()));
        lab.input(Input::Flush(handle));
        lab.input(Input::Close(handle));
    }
    let late: Duration = took[20..].iter().sum();
    assert!(late < secs(3), "17.7 MB at 10 MB/s took {late:?}; one by one they would take 10 s");
}

#[test]
fn files_read_out_of_order_are_not() {
    let size = 8 * BLOCK;
    let files: Vec<Range<u64>> = (0..200).map(|n| n * size..(n + 1) * size).collect();
    let mut lab = Lab::with_files(4 * BLOCK, Fill::Open, files.clone());
    lab.seed(serves(10_000_000));
    for n in [5, 1, 100, 33, 150, 60] {
        let handle = HandleId(n as u64);
        lab.input(Input::Open(handle, files[n].clone()));
        let start = files[n].start;
        stream(&mut lab, handle, start..start + BLOCK);
        lab.input(Input::Close(handle));
    }
    lab.run(secs(5));
    assert_eq!(lab.fetched.len(), 6);
}

#[test]
fn the_rest_of_a_file_that_is_read_in_order_comes_in_the_background() {
    for (fill, all) in [(Fill::Open, true), (Fill::None, false)] {
        let mut lab = Lab::with_files(16 * BLOCK, fill, vec![0..1_600 * BLOCK, 1_600 * BLOCK..3_200 * BLOCK]);
        lab.seed(serves(10_000_000));
        lab.input(Input::Open(H, 0..1_600 * BLOCK));
        stream(&mut lab, H, 0..400 * BLOCK);
        lab.run(secs(30));
        assert_eq!(lab.fetched.len() == 100, all, "{fill:?}: {}", lab.fetched.len());
        assert!(lab.fetched.iter().all(|p| p.0 < 100));
        assert_eq!(lab.granted, 0);
    }
}

#[test]
fn the_background_keeps_to_what_the_cache_holds() {
    let capacity = Some(80 * 4 * BLOCK);
    let mut lab = Lab::with_setup(Setup { capacity, ..setup(1_000, 4 * BLOCK, false, Fill::Open) });
    lab.seed(serves(10_000_000));
    lab.open();
    for (from, read) in [(0, 50), (50, 60), (60, 100)] {
        stream(&mut lab, H, from * 4 * BLOCK..read * 4 * BLOCK);
        lab.run(secs(10));
        let last = u64::from(lab.fetched.last().unwrap().0);
        // A quarter of 80 pieces ahead, but for the last step of an eighth of that.
        assert!((read + 17..=read + 21).contains(&last), "after {read} pieces: {last}");
        assert_eq!(lab.fetched.len() as u64, last + 1);
    }
    // A file that fits is fetched whole.
    let capacity = Some(400 * 4 * BLOCK);
    let mut lab = Lab::with_setup(Setup { capacity, ..setup(200, 4 * BLOCK, false, Fill::Open) });
    lab.seed(serves(10_000_000));
    lab.open();
    stream(&mut lab, H, 0..40 * 4 * BLOCK);
    lab.run(secs(10));
    assert_eq!(lab.fetched.len(), 200);
}

#[test]
fn a_read_cancels_what_it_would_wait_for_long_and_nothing_else() {
    for (rate, cancels) in [(2_000_000, true), (200_000_000, false)] {
        let mut lab = Lab::new(4_000, 16 * BLOCK, Fill::All);
        let peer = lab.seed(serves(rate));
        lab.open();
        lab.run(secs(2));
        let queued = lab.pending(peer).len();
        assert!(queued > 20, "{rate}: {queued}");
        let piece = (0..4_000u32).map(PieceIndex).find(|p| !lab.swarm.has(*p) && !lab.swarm.partials.contains_key(p));
        let at = u64::from(piece.unwrap().0) * 16 * BLOCK;
        lab.read(at..at + 1);
        let left = lab.pending(peer).iter().filter(|r| u64::from(r.piece.0) * 16 * BLOCK != at).count();
        assert_eq!(left < queued / 2, cancels, "{rate}: {left} of {queued} are left");
    }
}

#[test]
fn the_background_rests_after_an_eviction_and_never_fetches_it_again() {
    let mut lab = Lab::new(400, 4 * BLOCK, Fill::All);
    lab.seed(serves(2_000_000));
    lab.run(secs(3));
    let first = *lab.fetched.first().unwrap();
    lab.input(Input::Evicted(first));
    lab.run(secs(5));
    let before = lab.fetched.len();
    lab.run(secs(20));
    assert_eq!(lab.fetched.len(), before);
    lab.run(secs(60));
    assert_eq!(lab.fetched.len(), 400);
    assert!(!lab.swarm.has(first));
}

#[test]
fn demand_displaces_the_background_when_memory_is_short() {
    let mut lab = Lab::new(100, 4 * BLOCK, Fill::All);
    lab.budget = 12 * BLOCK;
    let peer = lab.seed(Character::Scripted);
    let asked = lab.pending(peer);
    assert!(!asked.is_empty());
    for request in asked {
        lab.deliver(peer, request);
    }
    assert_eq!(lab.budget, 0);
    let busy: BTreeSet<u32> = lab.swarm.partials.keys().map(|p| p.0).collect();
    let piece = (0..100).find(|&p| !busy.contains(&p) && !lab.swarm.has(PieceIndex(p))).unwrap();
    lab.open();
    lab.read(u64::from(piece) * 4 * BLOCK..u64::from(piece) * 4 * BLOCK + 1);
    lab.run(ms(60));
    // What is on its way comes first.
    for next in lab.pending(peer).into_iter().take(4) {
        assert_ne!(next.piece.0, piece);
        lab.deliver(peer, next);
    }
    assert!(lab.pending(peer).iter().any(|r| r.piece.0 == piece), "{:?}", lab.pending(peer));
}

#[test]
fn a_piece_larger_than_all_memory_still_comes() {
    let mut lab = Lab::new(2, 128 << 20, Fill::None);
    lab.budget = 128 << 20;
    lab.seed(serves(50_000_000));
    lab.open();
    assert!(lab.timed(0..10) < secs(4));
}

#[test]
fn everything_comes_once_and_rarest_first() {
    let mut lab = Lab::new(300, BLOCK, Fill::All);
    let common: Vec<u32> = (0..290).collect();
    for _ in 0..3 {
        lab.leecher(Character::Scripted, &common, false);
    }
    let seed = lab.seed(Character::Scripted);
    let first: Vec<u32> = lab.pending(seed).iter().map(|r| r.piece.0).collect();
    assert!(!first.is_empty() && first.iter().all(|p| *p >= 290), "{first:?}");
    lab.actors.get_mut(&seed).unwrap().character = serves(1_000_000);
    let end = lab.now + secs(60);
    assert!(lab.run_until(end, |lab| lab.swarm.complete()));
    assert_eq!(lab.swarm.totals().downloaded, 300 * BLOCK);
    assert_eq!(lab.swarm.totals().wasted, 0);
    assert_eq!(lab.count(|e| *e == Effect::Completed), 1);
    assert_eq!(lab.closed(seed), Some(CloseReason::BothSeeds));
}

#[test]
fn a_dead_peer_does_not_hold_the_last_blocks_of_the_background() {
    let mut lab = Lab::new(40, 4 * BLOCK, Fill::All);
    lab.seed(Character::Scripted);
    lab.seed(serves(1_000_000));
    let end = lab.now + secs(15);
    assert!(lab.run_until(end, |lab| lab.swarm.complete()), "{}", lab.fetched.len());
}

#[test]
fn a_seek_does_not_wait_behind_the_background() {
    let mut lab = Lab::new(2_000, 16 * BLOCK, Fill::All);
    for _ in 0..2 {
        lab.seed(serves(5_000_000));
    }
    lab.open();
    lab.run(secs(5));
    let pieces = (0..2_000u32).rev().filter(|&p| !lab.swarm.partials.contains_key(&PieceIndex(p)));
    let piece = pieces.into_iter().find(|&p| !lab.swarm.has(PieceIndex(p))).unwrap();
    let at = u64::from(piece) * 16 * BLOCK;
    let took = lab.timed(at..at + 10);
    assert!(took < ms(800), "{took:?}");
}

#[test]
fn slow_peers_leave_what_is_due_soon_to_fast_ones() {
    let mut lab = Lab::new(400, 16 * BLOCK, Fill::None);
    for _ in 0..4 {
        lab.seed(serves(100_000));
    }
    lab.seed(serves(8_000_000));
    lab.open();
    stream(&mut lab, H, 0..4 << 20);
    let took = stream(&mut lab, H, 4 << 20..36 << 20);
    assert!(took < ms(5_500), "32 MiB at 8.4 MB/s took {took:?}");
}

#[test]
fn a_file_read_backward_or_in_steps_is_read_ahead_of() {
    let piece = 4 * BLOCK;
    for (first, step) in [(390, -1), (5, 3), (10, -2)] {
        let mut lab = Lab::new(400, piece, Fill::None);
        lab.seed(Character::Serves { rate: 10_000_000, latency: ms(50) });
        lab.open();
        let mut took = Vec::new();
        for n in 0..40 {
            let at: i64 = first + n * step;
            let Ok(at) = u64::try_from(at) else { break };
            let bytes = at * piece + 100..at * piece + 4_196;
            if lab.swarm.has(PieceIndex(u32::try_from(at).unwrap())) {
                lab.input(Input::Hit(H, bytes));
            } else {
                took.push(lab.timed(bytes));
            }
        }
        assert!(took.len() < 20, "{step}: {} reads waited", took.len());
        let touched = |p: &PieceIndex| (i64::from(p.0) - first) % step == 0;
        lab.run(secs(2));
        assert!(lab.fetched.iter().all(touched), "{step}: {:?}", lab.fetched);
    }
}

#[test]
fn the_end_of_a_media_file_comes_with_its_head() {
    for media in [false, true] {
        let files = vec![0..200 * BLOCK, 200 * BLOCK..400 * BLOCK];
        let mut lab = Lab::with_files(4 * BLOCK, Fill::None, files.clone());
        lab.swarm.know_media(files.iter().filter(|_| media).map(|f| f.start));
        lab.seed(serves(10_000_000));
        lab.input(Input::Open(H, files[0].clone()));
        lab.timed(10 * BLOCK..10 * BLOCK + 1);
        lab.run(secs(1));
        assert_eq!(lab.fetched.iter().map(|p| p.0).collect::<Vec<_>>(), [2], "not with another part of it");
        lab.timed(0..4_096);
        lab.run(secs(1));
        let end = lab.fetched.iter().map(|p| p.0).filter(|&p| p > 2).collect::<Vec<_>>();
        assert_eq!(end, if media { (42..50).collect() } else { vec![] });
    }
}
