use super::*;

const A: TrackerIndex = TrackerIndex(0);
const B: TrackerIndex = TrackerIndex(1);
const C: TrackerIndex = TrackerIndex(2);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn answer(event: Event) -> Answered {
    Answered { interval: Some(1800), min_interval: Some(900), local: false, event, complete: false }
}

/// One tracker in each of `n` tiers.
fn tiers(n: usize, now: Instant) -> Schedule {
    Schedule::new(&vec![vec![true]; n], false, 1, now)
}

#[test]
fn intervals_are_bounded_both_ways() {
    // T5.
    for hostile in [Some(0), Some(-1), Some(i64::MIN), Some(10), Some(299)] {
        assert_eq!(interval(hostile, false), secs(300), "{hostile:?}");
    }
    for (stated, local) in [(0, 5), (-1, 5), (4, 5), (5, 5), (30, 30)] {
        assert_eq!(interval(Some(stated), true), secs(local));
    }
    for huge in [3601, 1 << 31, i64::MAX] {
        assert_eq!(interval(Some(huge), false), secs(3600));
        assert_eq!(interval(Some(huge), true), secs(3600));
    }
    assert_eq!(interval(None, false), secs(1800));
    assert_eq!(min_interval(None, secs(1800)), secs(60));
    assert_eq!(min_interval(None, secs(30)), secs(30), "never over the regular one");
    assert_eq!(min_interval(Some(900), secs(1800)), secs(900));
    assert_eq!(min_interval(Some(-1), secs(300)), secs(5));
    assert_eq!(min_interval(Some(i64::MAX), secs(300)), secs(300));
}

#[test]
fn a_round_ends_with_the_first_answer_and_the_next_one_begins_at_the_interval() {
    let now = Instant::now();
    let mut schedule = tiers(2, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    assert_eq!(schedule.next(now), Next::Wait(Some(now + PATIENCE)));
    schedule.answered(now + secs(1), A, answer(Event::Started));
    let due = now + secs(1801);
    assert_eq!(schedule.next(now + secs(10)), Next::Wait(Some(due)));
    assert_eq!(schedule.next_ask(A), Some(due));
    assert_eq!(schedule.next(due), Next::Announce(A, Event::None));
    assert_eq!(schedule.next_ask(A), None);
    assert_eq!(schedule.started().collect::<Vec<_>>(), [A]);
}

#[test]
fn a_failure_passes_the_turn_on_and_rests_ten_seconds_doubling_to_six_hundred() {
    let mut now = Instant::now();
    let mut schedule = tiers(2, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    schedule.failed(now, A, false);
    assert_eq!(schedule.next(now), Next::Announce(B, Event::Started));
    schedule.failed(now, B, false);
    for expected in [10, 20, 40, 80, 160, 320, 600, 600, 600] {
        let Some(again) = schedule.next_ask(A) else { panic!("it is asked again") };
        let rest = again - now;
        assert!(rest >= secs(expected) && rest <= secs(expected).mul_f64(1.25).min(secs(600)), "{rest:?} {expected}");
        // Both are due by then; whichever came first, both fail at one moment again.
        now = again.max(schedule.next_ask(B).expect("so is B"));
        assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
        schedule.failed(now, A, false);
        assert_eq!(schedule.next(now), Next::Announce(B, Event::Started));
        schedule.failed(now, B, false);
        let Next::Wait(Some(wait)) = schedule.next(now) else { panic!("all rest") };
        assert!(wait > now);
    }
}

#[test]
fn a_silent_udp_tracker_rests_sixty_seconds_doubling_to_six_hundred() {
    // T6: with the 15 s and 30 s of each announce, 15 x 2^n.
    let mut now = Instant::now();
    let mut schedule = tiers(1, now);
    for expected in [60, 120, 240, 480, 600, 600] {
        let Next::Announce(A, _) = schedule.next(now) else { panic!("its turn") };
        now += secs(45);
        schedule.failed(now, A, true);
        let rest = schedule.next_ask(A).expect("again") - now;
        assert!(rest >= secs(expected) && rest <= secs(expected).mul_f64(1.25).min(secs(600)), "{rest:?} {expected}");
        now += rest;
    }
    // An answer makes it good again, and another way to fail has the usual rest.
    let Next::Announce(A, _) = schedule.next(now) else { panic!("its turn") };
    schedule.answered(now, A, answer(Event::Started));
    now += secs(1800);
    let Next::Announce(A, _) = schedule.next(now) else { panic!("its turn") };
    schedule.failed(now, A, false);
    assert!(schedule.next_ask(A).expect("again") <= now + secs(13));
}

#[test]
fn back_offs_of_two_torrents_differ() {
    let now = Instant::now();
    let rest = |seed| {
        let mut schedule = Schedule::new(&[vec![true]], false, seed, now);
        schedule.failed(now, A, false);
        schedule.next_ask(A).expect("rests") - now
    };
    assert_ne!(rest(1), rest(2));
    assert_eq!(rest(1), rest(1), "a seed replays");
}

#[test]
fn tiers_are_shuffled_within_and_kept_apart_and_the_one_that_answers_comes_first() {
    let now = Instant::now();
    let mut firsts = [0; 3];
    for seed in 0..60 {
        let mut schedule = Schedule::new(&[vec![true, true, true], vec![true]], false, seed, now);
        let mut order = Vec::new();
        while let Next::Announce(index, _) = schedule.next(now) {
            order.push(index.0);
            schedule.failed(now, index, false);
        }
        firsts[order[0]] += 1;
        assert_eq!(order[3], 3, "the second tier comes last");
    }
    assert!(firsts.iter().all(|&n| n > 5), "{firsts:?}");

    let mut schedule = Schedule::new(&[vec![true, true, true]], false, 3, now);
    let mut order = Vec::new();
    for _ in 0..3 {
        let Next::Announce(index, _) = schedule.next(now) else { panic!("a turn for all") };
        order.push(index);
        if order.len() < 3 {
            schedule.failed(now, index, false);
        } else {
            schedule.answered(now, index, answer(Event::Started));
        }
    }
    let later = now + secs(1800);
    assert_eq!(schedule.next(later), Next::Announce(order[2], Event::None), "it moved to the front");
    schedule.failed(later, order[2], false);
    assert_eq!(schedule.next(later), Next::Announce(order[0], Event::Started), "the others kept their order");
}

#[test]
fn a_silent_tracker_does_not_hold_up_the_next_but_sixteen_are_enough() {
    let now = Instant::now();
    let mut schedule = tiers(18, now);
    let mut at = now;
    for n in 0..16 {
        assert_eq!(schedule.next(at), Next::Announce(TrackerIndex(n), Event::Started));
        at += PATIENCE;
    }
    assert_eq!(schedule.next(at), Next::Wait(None));
    schedule.failed(at, A, false);
    assert_eq!(schedule.next(at), Next::Announce(TrackerIndex(16), Event::Started));
    // The first answer ends the round; a late one counts too.
    schedule.answered(at, TrackerIndex(16), answer(Event::Started));
    assert_eq!(schedule.next(at), Next::Wait(Some(at + secs(1800))));
    schedule.answered(at + secs(2), C, answer(Event::Started));
    assert_eq!(schedule.started().collect::<Vec<_>>(), [C, TrackerIndex(16)]);
}

#[test]
fn private_torrents_ask_one_tracker_at_a_time() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&[vec![true], vec![true]], true, 1, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    assert_eq!(schedule.next(now + secs(9)), Next::Wait(None));
    schedule.failed(now + secs(10), A, false);
    assert_eq!(schedule.next(now + secs(10)), Next::Announce(B, Event::Started));
}

#[test]
fn what_cannot_be_used_is_passed_over() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&[vec![false], vec![true, false]], false, 1, now);
    assert_eq!(schedule.next(now), Next::Announce(B, Event::Started));
    assert_eq!(schedule.next_ask(A), None);
    let mut none = Schedule::new(&[vec![false]], false, 1, now);
    assert_eq!(none.next(now), Next::Wait(None));
    assert_eq!(Schedule::new(&[], false, 1, now).next(now), Next::Wait(None));
}

#[test]
fn wanted_peers_bring_the_next_announce_to_the_min_interval_once() {
    let now = Instant::now();
    let mut schedule = tiers(1, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    schedule.answered(now, A, Answered { min_interval: None, ..answer(Event::Started) });
    schedule.want_peers();
    assert_eq!(schedule.next(now + secs(59)), Next::Wait(Some(now + secs(60))));
    assert_eq!(schedule.next(now + secs(60)), Next::Announce(A, Event::None));
    schedule.answered(now + secs(60), A, answer(Event::None));
    assert_eq!(schedule.next(now + secs(200)), Next::Wait(Some(now + secs(1860))));
}

#[test]
fn wanted_peers_cut_a_long_rest_to_a_minute() {
    let mut now = Instant::now();
    let mut schedule = tiers(1, now);
    for _ in 0..8 {
        let Next::Announce(A, _) = schedule.next(now) else { panic!("its turn") };
        schedule.failed(now, A, false);
        now = schedule.next_ask(A).expect("again");
    }
    let Next::Announce(A, _) = schedule.next(now) else { panic!("its turn") };
    schedule.failed(now, A, false);
    assert!(schedule.next_ask(A).expect("again") > now + secs(400));
    schedule.want_peers();
    assert_eq!(schedule.next(now), Next::Wait(Some(now + secs(60))));
}

#[test]
fn completed_is_told_once_at_once_and_only_to_those_who_know_us_incomplete() {
    let now = Instant::now();
    let mut schedule = tiers(1, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    schedule.answered(now, A, answer(Event::Started));
    schedule.completed(now + secs(5));
    assert_eq!(schedule.next(now + secs(5)), Next::Announce(A, Event::Completed));
    schedule.answered(now + secs(5), A, Answered { complete: true, ..answer(Event::Completed) });
    schedule.completed(now + secs(6));
    assert_eq!(schedule.next(now + secs(6)), Next::Wait(Some(now + secs(1805))));
    assert_eq!(schedule.next(now + secs(1805)), Next::Announce(A, Event::None));

    let mut seed = tiers(1, now);
    assert_eq!(seed.next(now), Next::Announce(A, Event::Started));
    seed.answered(now, A, Answered { complete: true, ..answer(Event::Started) });
    seed.completed(now);
    assert_eq!(seed.next(now), Next::Wait(Some(now + secs(1800))), "it began complete");
}

#[test]
fn completed_survives_a_failure_and_a_started_in_flight() {
    let now = Instant::now();
    let mut schedule = tiers(1, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    schedule.completed(now);
    schedule.answered(now, A, answer(Event::Started));
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Completed));
    schedule.failed(now, A, false);
    let Next::Wait(Some(again)) = schedule.next(now) else { panic!("it rests") };
    assert_eq!(schedule.next(again), Next::Announce(A, Event::Completed));
}

#[test]
fn a_starving_torrent_asks_the_trackers_that_had_no_turn() {
    let mut now = Instant::now();
    let mut schedule = tiers(3, now);
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    schedule.answered(now, A, answer(Event::Started));
    // The first one's answer has ended the round; the others know nothing of us yet.
    for (other, after) in [(B, 5), (C, 10)] {
        now += secs(5);
        assert!(matches!(schedule.next(now), Next::Wait(Some(_))), "{after}");
        schedule.want_peers();
        assert_eq!(schedule.next(now), Next::Announce(other, Event::Started));
        schedule.answered(now, other, answer(Event::Started));
    }
    // Then each is asked at its own pace, the one that answered last first.
    schedule.want_peers();
    assert!(matches!(schedule.next(now), Next::Wait(Some(at)) if at == now + secs(900)));
    now += secs(1800);
    schedule.want_peers();
    assert_eq!(schedule.next(now), Next::Announce(A, Event::None));
    // Of a private torrent, only one at a time.
    let mut schedule = tiers(2, now);
    schedule.set_private();
    assert_eq!(schedule.next(now), Next::Announce(A, Event::Started));
    schedule.answered(now, A, answer(Event::Started));
    schedule.want_peers();
    assert!(matches!(schedule.next(now), Next::Wait(Some(at)) if at == now + secs(900)));
}
