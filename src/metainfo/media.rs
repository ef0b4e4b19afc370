//! Which files are media, going by their names: players read the end of these, where the index is, right after the head.

/// Endings of containers whose index may be at the end.
const ENDINGS: [&str; 16] =
    ["3gp", "aac", "avi", "flac", "flv", "m4a", "m4b", "m4v", "mkv", "mov", "mp3", "mp4", "mpg", "ogg", "webm", "wmv"];

/// True if a file of this name is a video or a sound.
#[must_use]
pub fn is_media(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.iter().any(|media| media.eq_ignore_ascii_case(ending)))
}

#[cfg(test)]
mod tests {
    use super::is_media;

    #[test]
    fn by_its_ending() {
        assert!(is_media("a film.MKV") && is_media("x.y/song.mp3"));
        assert!(!is_media("mkv") && !is_media("a.mkv.txt") && !is_media(""));
    }
}
