//! What a demo shows while it streams: one line of progress, one of peers, a map of the pieces. On a terminal they are
//! drawn over, each within 80 columns; elsewhere one line is printed now and then.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::info::human;
use super::shortened;
use super::stage::{Reading, Stage};
use crate::swarm::Cell;

/// How often it is drawn.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How often a line is printed where nothing can be drawn over.
const LINE: Duration = Duration::from_secs(2);
/// Cells of the map.
const CELLS: usize = 60;
/// The rate shown is that of the last second.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// The lines on the screen.
pub(super) struct Screen {
    name: String,
    length: u64,
    lines: Vec<ProgressBar>,
    terminal: bool,
    printed: Instant,
    samples: VecDeque<(Instant, u64)>,
}

impl Screen {
    /// Shows how `length` bytes of `name` are read.
    pub(super) fn new(name: &str, length: u64) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        // The template is a constant: the default style would stand in for a mistake in it.
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let lines = (0..4).map(|_| all.add(ProgressBar::new(1).with_style(style.clone()))).collect();
        Self {
            name: shortened(name, 18),
            length,
            lines,
            terminal: std::io::stdout().is_terminal(),
            printed: Instant::now(),
            samples: VecDeque::new(),
        }
    }

    /// Draws what there is now.
    pub(super) fn draw(&mut self, reading: &Reading, stage: &Stage) {
        let Some(snapshot) = stage.snapshot() else { return };
        let (now, read) = (Instant::now(), reading.read());
        let rate = self.rate(now, snapshot.totals.downloaded);
        let percent = (u128::from(read) * 100).checked_div(u128::from(self.length)).unwrap_or(100);
        let progress = format!(
            "{}: {} of {}, {percent} %, {:.1} s",
            self.name,
            human(read),
            human(self.length),
            reading.elapsed().as_secs_f64()
        );
        let totals = snapshot.totals;
        let peers = format!("{}/s from {} peers ({} seeds)", human(rate), totals.peers, totals.seeds);
        let pieces = format!(
            "pieces: {} there (#), {} requested (+), {} missing (.)",
            snapshot.there,
            snapshot.requested,
            snapshot.pieces.saturating_sub(snapshot.there + snapshot.requested)
        );
        if self.terminal {
            let map = format!("[{}]", map(&stage.piece_map(CELLS)));
            for (line, text) in self.lines.iter().zip([progress, peers, pieces, map]) {
                line.set_message(text);
            }
        } else if now.saturating_duration_since(self.printed) >= LINE {
            self.printed = now;
            let _ = writeln!(std::io::stdout(), "{progress}; {peers}; {pieces}");
        }
    }

    /// Takes the lines away.
    pub(super) fn clear(&self) {
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
    }

    fn rate(&mut self, now: Instant, bytes: u64) -> u64 {
        self.samples.push_back((now, bytes));
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
        let Some(&(since, before)) = self.samples.front() else { return 0 };
        let micros = now.saturating_duration_since(since).as_micros().max(1);
        let rate = u128::from(bytes.saturating_sub(before)) * 1_000_000 / micros;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// One character for each stretch of pieces: what most concerns it. There only if all of it is.
fn map(cells: &[Cell]) -> String {
    let character = |cell: &Cell| match cell {
        Cell { requested: 1.., .. } => '+',
        Cell { missing: 0, .. } => '#',
        Cell { there: 0, .. } => '.',
        _ => ':',
    };
    cells.iter().map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_what_is_under_way_then_what_is_missing() {
        let cell = |there, requested, missing| Cell { there, requested, missing };
        assert_eq!(map(&[cell(2, 0, 0), cell(1, 1, 1), cell(0, 0, 2), cell(1, 0, 1)]), "#+.:");
    }
}
