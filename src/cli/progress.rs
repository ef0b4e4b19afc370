//! Progress of long work, for people on a terminal.

use std::borrow::Cow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr that counts bytes to `total`: name, bar, percent, rate and the time that is left. It is hidden when
/// stderr is no terminal. Advance it with [`ProgressBar::inc`], from any thread, and end it with
/// [`ProgressBar::finish_and_clear`].
pub(crate) fn bytes_bar(name: &str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} % {binary_bytes_per_sec:>12} {eta:>4} left");
    // The template is a constant: the default bar would stand in for a mistake in it.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5))
        .with_style(style)
        .with_message(Cow::from(name))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use indicatif::TermLike;

    /// A terminal of 100 columns that keeps what is written.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
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
}
