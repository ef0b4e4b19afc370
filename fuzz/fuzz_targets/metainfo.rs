//! .torrent files and info dictionaries: what loads has safe names, and the geometry that its files say.
#![no_main]

use swarmfs::metainfo::{Magnet, Metainfo};

fn sound(meta: &Metainfo) {
    assert!(!meta.name.is_empty() && !meta.name.contains(['/', '\0']));
    let mut end = 0;
    for file in &meta.files {
        assert_eq!(file.offset, end, "files lie side by side");
        end = file.bytes().end;
        if file.visible() {
            assert!(file.path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255));
        }
    }
    assert_eq!(end, meta.geometry.total());
    for piece in meta.geometry.all() {
        assert!(meta.piece_hashes.get(piece).is_some());
    }
    let again = Metainfo::parse_info(&meta.info).expect("its info dictionary is one");
    assert_eq!(again.id, meta.id);
    let link = Magnet::to(meta).to_string();
    assert_eq!(Magnet::parse(&link).map(|magnet| magnet.id), Ok(meta.id), "{link}");
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(meta) = Metainfo::parse(data) {
        sound(&meta);
    }
    if let Ok(meta) = Metainfo::parse_info(data) {
        sound(&meta);
    }
});
