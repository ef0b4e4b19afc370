//! Under a download limit nothing is asked for that was not allowed, and reads come first.

use super::*;

const FAST: Character = Character::Serves { rate: 100 << 20, latency: Duration::from_millis(1) };

/// Some seeds that answer at once, and a limit.
fn lab(seeds: usize, fill: Fill) -> Lab {
    let mut lab = Lab::new(64, 4 * BLOCK, fill);
    lab.swarm.limit_download();
    for _ in 0..seeds {
        lab.seed(FAST);
    }
    lab.input(Input::Open(H, 0..64 * 4 * BLOCK));
    lab
}

fn wants(lab: &Lab) -> usize {
    lab.count(|effect| matches!(effect, Effect::WantRequests { .. }))
}

fn asked(lab: &Lab) -> usize {
    let requests = lab.actors.values().flat_map(|actor| &actor.sent);
    requests.filter(|sent| matches!(sent, Outgoing::Message(Message::Request(_)))).count()
}

#[test]
fn nothing_is_asked_for_beyond_what_is_allowed() {
    let mut lab = lab(30, Fill::All);
    assert_eq!((asked(&lab), wants(&lab)), (0, 1), "it wants to, and says so once");
    for allowed in 1..40 {
        lab.input(Input::MayAsk(BLOCK));
        lab.run_until(lab.now + ms(250), |_| false);
        assert_eq!(asked(&lab), allowed);
        assert_eq!(wants(&lab), allowed + 1);
    }
    // What is not used is not lost, and not asked for again.
    lab.input(Input::MayAsk(1_000 * BLOCK));
    let end = lab.now + secs(60);
    assert!(lab.run_until(end, |lab| lab.swarm.complete()));
    assert_eq!(lab.swarm.totals().downloaded, 256 * BLOCK, "no block was asked for twice");
    assert_eq!(wants(&lab), 40);
}

#[test]
fn what_a_read_waits_for_is_asked_for_first_and_is_urgent() {
    let mut lab = lab(4, Fill::All);
    assert_eq!(lab.count(|effect| matches!(effect, Effect::WantRequests { urgent: false })), 1);
    let read = lab.read(40 * 4 * BLOCK..41 * 4 * BLOCK);
    assert_eq!(lab.count(|effect| matches!(effect, Effect::WantRequests { urgent: true })), 1);
    for _ in 0..4 {
        lab.input(Input::MayAsk(BLOCK));
        lab.run_until(lab.now + ms(250), |_| false);
    }
    assert_eq!(lab.answered.get(&read), Some(&Ok(())), "the first four blocks were those of the read");
}

#[test]
fn requests_that_are_void_may_be_asked_again_elsewhere() {
    let mut lab = lab(0, Fill::All);
    let silent = lab.seed(Character::Scripted);
    lab.input(Input::MayAsk(4 * BLOCK));
    assert_eq!(lab.pending(silent).len(), 4);
    lab.input(Input::Disconnected(silent));
    lab.actors.remove(&silent);
    let other = lab.seed(Character::Scripted);
    assert_eq!(lab.pending(other).len(), 4);
}
