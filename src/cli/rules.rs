//! When a command that seeds ends by itself.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::lifetime::Lifetime;
use super::mount::Ending;
use super::progress::{Rates, ratio_line};
use super::values;
use crate::engine::Session;
use crate::swarm::TorrentKey;

/// How often the rules are looked at, and the line on a terminal is drawn.
const LOOK: Duration = Duration::from_millis(250);

/// `--seed-time` and `--ratio`: whichever is reached first ends the command.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Seeding")]
pub(crate) struct StopRules {
    /// Seed for this long (s, m, h)
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    seed_time: Option<Duration>,
    /// Seed until this many times the size was uploaded, over all runs
    #[arg(long, value_name = "R", value_parser = values::ratio)]
    ratio: Option<f64>,
}

impl StopRules {
    /// True if there is a rule.
    pub(crate) fn any(&self) -> bool {
        self.seed_time.is_some() || self.ratio.is_some()
    }

    fn reached(&self, seeded: Duration, uploaded: u64, size: u64) -> bool {
        let ratio = self.ratio.is_some_and(|ratio| uploaded as f64 >= ratio * size as f64);
        ratio || self.seed_time.is_some_and(|time| seeded >= time)
    }

    /// Seeds until a rule is reached (true) or a signal comes (false). `size`: what a ratio of 1 is, bytes.
    pub(crate) async fn seed(
        &self,
        session: &Session,
        torrent: TorrentKey,
        size: u64,
        bar: &ProgressBar,
        lifetime: &mut Lifetime,
        ending: &mut Ending,
    ) -> bool {
        let start = Instant::now();
        let mut rates = Rates::default();
        loop {
            let totals = session.totals(torrent).unwrap_or_default();
            let uploaded = lifetime.uploaded(&totals);
            if self.reached(start.elapsed(), uploaded, size) {
                return true;
            }
            lifetime.save_now_and_then(&totals);
            rates.add(Instant::now(), &totals);
            bar.set_message(ratio_line(&totals, uploaded, size, rates.up()));
            let left = self.seed_time.map_or(LOOK, |time| time.saturating_sub(start.elapsed()).min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = ending.signal() => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_rule_ends_it_and_no_rule_never_does() {
        let seconds = Duration::from_secs;
        let none = StopRules { seed_time: None, ratio: None };
        assert!(!none.any() && !none.reached(seconds(1_000_000), u64::MAX, 1));
        let both = StopRules { seed_time: Some(seconds(60)), ratio: Some(1.5) };
        assert!(both.any() && !both.reached(seconds(59), 149, 100));
        assert!(both.reached(seconds(60), 0, 100) && both.reached(seconds(0), 150, 100));
    }
}
