//! Progress of long work, for people on a terminal.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::info::human;
use crate::swarm::Totals;

/// Rates are averages of so much time.
const WINDOW: Duration = Duration::from_secs(5);
/// Redraws per second.
const HZ: u8 = 5;

/// A bar on stderr that counts bytes to `total`: name, bar, percent, rate and the time that is left. It is hidden when
/// stderr is no terminal. Advance it with [`ProgressBar::inc`], from any thread, and end it with
/// [`ProgressBar::finish_and_clear`].
pub(crate) fn bytes_bar(name: &str, total: u64) -> ProgressBar {
    bar(total, "{msg} {wide_bar} {percent:>3} % {binary_bytes_per_sec:>12} {eta:>4} left").with_message(printable(name))
}

/// A bar on stderr for bytes that come from a swarm: name, bar, percent and [`transfer_line`] as its message. It fits a
/// line of 80 columns.
pub(crate) fn transfer_bar(name: &str, total: u64) -> ProgressBar {
    bar(total, "{prefix:20!} {wide_bar} {percent:>3} % {msg}").with_prefix(printable(name))
}

/// A line on stderr that is all message, behind the name: [`ratio_line`] for what is given to a swarm, or what is waited
/// for.
pub(crate) fn message_bar(name: &str) -> ProgressBar {
    bar(0, "{prefix:20!} {msg}").with_prefix(printable(name))
}

fn bar(total: u64, template: &str) -> ProgressBar {
    // The templates are constants: the default bar would stand in for a mistake in one.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(HZ)).with_style(style)
}

fn printable(name: &str) -> Cow<'static, str> {
    name.chars().filter(|c| !c.is_control()).collect::<String>().into()
}

/// What moves: rates down and up, peers, the time that `left` bytes take at this rate.
pub(crate) fn transfer_line(totals: &Totals, left: u64, rates: &Rates) -> String {
    let eta = left.checked_div(rates.down()).map_or_else(|| "-".to_owned(), short_time);
    let (down, up) = (human(rates.down()), human(rates.up()));
    format!("\u{2193} {down}/s \u{2191} {up}/s {} peers {eta}", totals.peers)
}

/// What is given: the rate, how much over all runs (`uploaded`), and that as a share of `size`.
pub(crate) fn ratio_line(totals: &Totals, uploaded: u64, size: u64, rate: u64) -> String {
    let ratio = uploaded as f64 / size.max(1) as f64;
    let (rate, all) = (human(rate), human(uploaded));
    format!("\u{2191} {rate}/s, {all} given, ratio {ratio:.2}, {} peers", totals.peers)
}

/// Seconds as the two largest units: `4s`, `3m07s`, `2h05m`, `9d`.
fn short_time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..360_000 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d", (seconds / 86_400).min(9_999)),
    }
}

/// Bytes per second down and up over the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Rates(VecDeque<(Instant, u64, u64)>);

impl Rates {
    /// Takes the totals as they are now.
    pub(crate) fn add(&mut self, now: Instant, totals: &Totals) {
        self.0.push_back((now, totals.downloaded, totals.uploaded));
        while self.0.get(1).is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
    }

    /// Bytes per second received.
    pub(crate) fn down(&self) -> u64 {
        self.rate(|(_, down, _)| *down)
    }

    /// Bytes per second sent.
    pub(crate) fn up(&self) -> u64 {
        self.rate(|(_, _, up)| *up)
    }

    fn rate(&self, of: impl Fn(&(Instant, u64, u64)) -> u64) -> u64 {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else { return 0 };
        per_second(of(last).saturating_sub(of(first)), last.0.saturating_duration_since(first.0))
    }
}

/// Bytes per second; 0 where no time has passed.
pub(crate) fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = (u128::from(bytes) * 1_000_000).checked_div(time.as_micros()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use indicatif::TermLike;

    /// A terminal of 80 columns that keeps what is written.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn it_shows_name_percent_rate_and_time_left() {
        let paper = Paper::default();
        let bar = bytes_bar("a \u{1b}[31mfilm", 4 << 20);
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(paper.clone())));
        bar.inc(1 << 20);
        bar.force_draw();
        let shown = paper.0.lock().unwrap().clone();
        assert!(shown.contains("a [31mfilm ") && !shown.contains('\u{1b}'), "{shown:?}");
        assert!(shown.contains(" 25 % ") && shown.contains("/s ") && shown.contains(" left"), "{shown:?}");
    }

    #[test]
    fn a_transfer_fits_80_columns_whatever_the_figures() {
        let rates = Rates([(0, 0), (1, 1_073_741_823)].map(|(at, n)| (later(at), n, n)).into());
        let totals = Totals { peers: 200, ..Totals::default() };
        let line = transfer_line(&totals, 1 << 47, &rates);
        assert_eq!(line, "\u{2193} 1023.9 MiB/s \u{2191} 1023.9 MiB/s 200 peers 36h24m");
        let paper = Paper::default();
        let bar = transfer_bar("a film with a very long name 2160p \u{65e5}\u{672c}", 100);
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(paper.clone())));
        bar.set_message(line.clone());
        bar.inc(100);
        bar.force_draw();
        let shown = paper.0.lock().unwrap().clone();
        let last = &shown[shown.rfind("a film").unwrap()..];
        assert!(last.starts_with("a film with a very l ") && last.ends_with(&line), "{last:?}");
        assert!(last.contains(" 100 % ") && last.chars().count() <= 80, "{last:?}");
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut rates = Rates::default();
        assert_eq!((rates.down(), rates.up()), (0, 0));
        for second in 0..20 {
            let downloaded = if second < 10 { second * 1000 } else { 9000 };
            rates.add(later(second), &Totals { downloaded, uploaded: second * 10, ..Totals::default() });
        }
        assert_eq!((rates.down(), rates.up(), rates.0.len()), (0, 10, 6));
        assert_eq!(transfer_line(&Totals::default(), 5, &rates), "\u{2193} 0 B/s \u{2191} 10 B/s 0 peers -");
        let times = [4, 187, 7_500, 800_000].map(short_time);
        assert_eq!(times, ["4s", "3m07s", "2h05m", "9d"]);
    }

    fn later(seconds: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }
}
