//! `swarmfs verify`: what is wrong with a copy, file by file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::process::{output, shell, swarmfs};
use crate::support::torrent::Torrent;
use tempfile::TempDir;

const PIECE: u64 = 128 << 10;

struct Copy {
    dataset: Dataset,
    torrent: PathBuf,
    dir: TempDir,
}

/// A copy of the small dataset.
fn copy() -> Copy {
    let dataset = Dataset::small();
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::of(&dataset, PIECE).write(dir.path(), None);
    shell("cp -r \"$1\" \"$2\"", &[&dataset.root(), dir.path()], Duration::from_secs(60));
    Copy { dataset, torrent, dir }
}

impl Copy {
    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(&self.dataset.name).join(file)
    }

    /// The pieces that hold bytes of a file.
    fn pieces(&self, file: &str) -> Vec<u64> {
        let before: u64 = self.dataset.files.iter().take_while(|f| f.path != file).map(|f| f.length).sum();
        let length = self.dataset.files.iter().find(|f| f.path == file).expect("a file").length;
        (before / PIECE..=(before + length - 1) / PIECE).collect()
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = swarmfs();
        command.arg("verify").arg(&self.torrent).arg("--data").arg(data);
        command
    }

    /// The exit code and what is said.
    fn verify(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let answer = output(self.command(self.dir.path()).args(arguments), Duration::from_secs(60));
        assert!(answer.stderr.is_empty(), "{}", String::from_utf8_lossy(&answer.stderr));
        (answer.status.code(), String::from_utf8(answer.stdout).expect("text"))
    }
}

#[test]
fn a_right_copy_is_right_whatever_else_is_there() {
    let copy = copy();
    std::fs::write(copy.path("not in the torrent"), "x").expect("a file");
    let (code, text) = copy.verify(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("pieces are right") && text.lines().count() == 1, "{text}");
    let (code, text) = copy.verify(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["complete"], &json["size"]), (Some(0), &true.into(), &copy.dataset.length().into()));
    assert_eq!(json["bad_files"], serde_json::json!([]));
}

#[test]
fn what_is_wrong_is_said_by_file() {
    let copy = copy();
    let large = copy.pieces("large.bin");
    // Two neighbours and one alone, all inside of the large file.
    let mut bytes = std::fs::read(copy.path("large.bin")).expect("the file");
    let before: u64 = copy.dataset.files.iter().take_while(|f| f.path != "large.bin").map(|f| f.length).sum();
    for piece in [large[3], large[4], large[9]] {
        bytes[usize::try_from(piece * PIECE - before + 5).expect("an offset")] ^= 1;
    }
    std::fs::write(copy.path("large.bin"), bytes).expect("the damage");
    std::fs::remove_file(copy.path("photos/05.raw")).expect("it goes");
    std::fs::rename(copy.path("photos/02.raw"), copy.path("photos/02.raw.part")).expect("it is unfinished");
    let (code, text) = copy.verify(&[]);
    assert_eq!(code, Some(1), "{text}");
    let line = format!(
        "large.bin: 3 of {} pieces bad or missing: {}-{}, {} (its content differs)",
        large.len(),
        large[3],
        large[4],
        large[9]
    );
    assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    let gone = copy.pieces("photos/05.raw");
    let (first, last, all) = (gone[0], gone[gone.len() - 1], gone.len());
    let line = format!("photos/05.raw: {all} of {all} pieces bad or missing: {first}-{last} (it is missing)");
    assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    assert!(text.contains("\"photos/02.raw.part\" is there: Transmission has not finished it"), "{text}");
    assert!(!text.contains("photos/07.raw") && !text.contains("note 1.txt"), "{text}");

    // No piece tells of empty files.
    let whole = self::copy();
    std::fs::remove_file(whole.path("empty/0")).expect("it goes");
    let (code, text) = whole.verify(&[]);
    assert_eq!((code, text.lines().next()), (Some(1), Some("empty/0: it is missing")), "{text}");
    std::fs::write(whole.path("empty/0"), "x").expect("it is not empty");
    let (code, text) = whole.verify(&[]);
    assert_eq!((code, text.lines().next()), (Some(1), Some("empty/0: it is not empty")), "{text}");

    let (code, text) = copy.verify(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["complete"]), (Some(1), &false.into()));
    let files = json["bad_files"].as_array().expect("a list");
    let of = |path: &str| files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path}: {text}"));
    assert_eq!(of("large.bin")["bad_pieces"], 3);
    let runs = serde_json::json!([{"start": large[3], "end": large[4]}, {"start": large[9], "end": large[9]}]);
    assert_eq!(of("large.bin")["bad"], runs);
    assert_eq!(of("photos/05.raw")["reason"], "it is missing");
    assert_eq!(of("photos/05.raw")["bad_pieces"], gone.len());
}

#[test]
fn nothing_to_check_is_one_sentence() {
    let copy = copy();
    let empty = copy.dir.path().join("empty");
    std::fs::create_dir(&empty).expect("a directory");
    for place in [&empty, &copy.dir.path().join("not there")] {
        let answer = output(&mut copy.command(place), Duration::from_secs(20));
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert_eq!((answer.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains(&*place.to_string_lossy()), "{text}");
    }
}
