//! Progress bars on a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes: the name, how much, the rate and the time left.
pub(crate) fn bytes_bar(name: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(name.escape_debug().to_string());
    let template = "{msg} {percent:>3}% [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
