//! What is left out of a torrent: globs against paths below the root and against names.

use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobMatcher};

/// Checks a glob.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn check(text: &str) -> Result<(), String> {
    Excludes::glob(text).map(|_| ())
}

/// The globs, and whether each has met something.
#[derive(Debug)]
pub(super) struct Excludes(Vec<(GlobMatcher, bool)>);

impl Excludes {
    /// One glob: `*` and `?` stop at a `/`, `**` does not.
    ///
    /// # Errors
    /// A sentence for the user.
    fn glob(text: &str) -> Result<GlobMatcher, String> {
        let text = text.strip_prefix("./").unwrap_or(text);
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        glob.map(|glob| glob.compile_matcher()).map_err(|error| format!("not a glob ({})", error.kind()))
    }

    /// # Errors
    /// A sentence for the user.
    pub(super) fn new(globs: &[String]) -> Result<Self, String> {
        globs.iter().map(|glob| Self::glob(glob).map(|glob| (glob, false))).collect::<Result<_, _>>().map(Self)
    }

    /// True if this path below the root is left out.
    pub(super) fn take(&mut self, path: &Path, directory: bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let name = path.file_name().map_or(path, Path::new);
        let mut candidates = vec![Candidate::new(path), Candidate::new(name)];
        // For globs that end in a slash.
        let (slashed_path, slashed_name) = (path.join(""), name.join(""));
        if directory {
            candidates.extend([Candidate::new(&slashed_path), Candidate::new(&slashed_name)]);
        }
        let mut taken = false;
        for (glob, used) in &mut self.0 {
            let matches = candidates.iter().any(|candidate| glob.is_match_candidate(candidate));
            *used |= matches;
            taken |= matches;
        }
        taken
    }

    /// Globs that have met nothing.
    pub(super) fn unused(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, used)| !used).map(|(glob, _)| glob.glob().glob())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_meet_paths_and_names() {
        let taken = |glob: &str, path: &str, directory| {
            Excludes::new(&[glob.to_owned()]).unwrap().take(Path::new(path), directory)
        };
        for (glob, path) in [
            ("*.tmp", "a.tmp"),
            ("*.tmp", "d/e/a.tmp"),
            ("d/*.tmp", "d/a.tmp"),
            ("./d/a", "d/a"),
            ("d/**/x", "d/e/f/x"),
            ("{a,b}", "d/b"),
            ("[ab]?", "d/bc"),
            (".*", "d/.hidden"),
        ] {
            assert!(taken(glob, path, false), "{glob} {path}");
        }
        for (glob, path) in
            [("*.tmp", "a.tmpx"), ("d/*.tmp", "d/e/a.tmp"), ("d/a", "e/d/a"), ("d", "e/da"), ("d/", "d")]
        {
            assert!(!taken(glob, path, false), "{glob} {path}");
        }
        assert!(
            taken("d/", "d", true) && taken("d/", "e/d", true) && taken("e/d/", "e/d", true) && taken("d", "e/d", true)
        );
        assert!(Excludes::glob("[a").unwrap_err().contains("not a glob"));
    }

    #[test]
    fn globs_meet_names_that_are_not_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"d/caf\xe9.txt"));
        let mut excludes = Excludes::new(&["caf*.txt".to_owned(), "z".to_owned()]).unwrap();
        assert!(excludes.take(path, false));
        assert_eq!(excludes.unused().collect::<Vec<_>>(), ["z"]);
    }
}
