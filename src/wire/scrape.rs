//! Scrapes over HTTP (BEP 48): the figures of torrents without an announce.

use super::bencode::Value;
use super::tracker::{TrackerError, fields, percent_encode, with_query};
use super::udp_tracker::ScrapeEntry;

/// The URL of a scrape of these torrents (BEP 48): the tracker's own, whose last part must begin with `announce`, which
/// becomes `scrape`. `None` if it does not: such a tracker cannot be scraped.
#[must_use]
pub fn scrape_url(tracker: &str, info_hashes: &[[u8; 20]]) -> Option<String> {
    let path = tracker.split(['?', '#']).next()?;
    let after = path.len() - path.rsplit('/').next()?.len();
    let (before, rest) = tracker.split_at_checked(after).filter(|(before, _)| !before.ends_with("://"))?;
    let scraped = format!("{before}scrape{}", rest.strip_prefix("announce")?);
    let mut query = String::with_capacity(70 * info_hashes.len());
    for hash in info_hashes {
        query.push_str(if query.is_empty() { "info_hash=" } else { "&info_hash=" });
        percent_encode(hash, &mut query);
    }
    Some(with_query(&scraped, &query))
}

/// Reads the reply to a scrape (BEP 48): the figures of `info_hashes`, in this order; zeros for a torrent that the
/// tracker does not name. Figures that are missing or negative count as 0, and those over 2^32 - 1 as that.
///
/// # Errors
/// [`TrackerError::Failure`] with the tracker's own words, else that it is no reply to a scrape.
pub fn decode_http_scrape(body: &[u8], info_hashes: &[[u8; 20]]) -> Result<Vec<ScrapeEntry>, TrackerError> {
    let fields = fields(body)?;
    let files = fields.get(&b"files"[..]).and_then(Value::dictionary).ok_or(TrackerError::NoFiles)?;
    let entry = |hash: &[u8; 20]| {
        let file = files.get(&hash[..]).and_then(Value::dictionary);
        let figure = |key: &str| {
            let stated = file.and_then(|file| file.get(key.as_bytes())).and_then(Value::integer).unwrap_or(0);
            u32::try_from(stated.max(0)).unwrap_or(u32::MAX)
        };
        ScrapeEntry { complete: figure("complete"), downloaded: figure("downloaded"), incomplete: figure("incomplete") }
    };
    Ok(info_hashes.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrapes_url_is_the_announces_with_another_last_part() {
        let hash = [0xA5; 20];
        let query = format!("info_hash={}", "%A5".repeat(20));
        // The examples of BEP 48 and what it came from.
        for (tracker, scrape) in [
            ("http://example.com/announce", Some("http://example.com/scrape?")),
            ("http://example.com/x/announce", Some("http://example.com/x/scrape?")),
            ("http://example.com/announce.php", Some("http://example.com/scrape.php?")),
            ("http://example.com/announce?x2%0644", Some("http://example.com/scrape?x2%0644&")),
            ("http://example.com/announce?x=2/4", Some("http://example.com/scrape?x=2/4&")),
            ("http://example.com/announce?#x", Some("http://example.com/scrape?")),
            ("http://example.com/a", None),
            ("http://example.com/x%064announce", None),
            ("http://announce", None),
            ("http://announce/announce", Some("http://announce/scrape?")),
            ("http://example.com/announce/", None),
            ("", None),
        ] {
            assert_eq!(scrape_url(tracker, &[hash]), scrape.map(|url| format!("{url}{query}")), "{tracker}");
        }
        let both = scrape_url("http://t/announce", &[hash, [b'a'; 20]]).expect("a URL");
        assert!(both.ends_with(&format!("%A5&info_hash={}", "a".repeat(20))), "{both}");
    }

    #[test]
    fn scrapes_give_figures_in_the_order_asked() {
        let (a, b, unknown) = ([b'a'; 20], [0xFF; 20], [1; 20]);
        let mut body = b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei5e10:downloadedi50e10:incompletei10ee20:".to_vec();
        body.extend(b);
        body.extend_from_slice(b"d8:completei4294967296e10:downloaded1:x10:incompletei-1eeee");
        let figures = |complete, downloaded, incomplete| ScrapeEntry { complete, downloaded, incomplete };
        let read = decode_http_scrape(&body, &[b, unknown, a]).expect("figures");
        assert_eq!(read, [figures(u32::MAX, 0, 0), figures(0, 0, 0), figures(5, 50, 10)]);
        assert_eq!(decode_http_scrape(b"d5:filesdee", &[a]), Ok(vec![figures(0, 0, 0)]));
    }

    #[test]
    fn what_is_no_scrape_is_an_error() {
        let refused = Err(TrackerError::Failure("no".to_owned()));
        assert_eq!(decode_http_scrape(b"d14:failure reason2:noe", &[]), refused);
        assert_eq!(decode_http_scrape(b"d5:filesde14:failure_reason2:noe", &[]), refused);
        assert_eq!(decode_http_scrape(b"d5:peers0:e", &[[1; 20]]), Err(TrackerError::NoFiles));
        assert_eq!(decode_http_scrape(b"d5:filesi1ee", &[[1; 20]]), Err(TrackerError::NoFiles));
        assert_eq!(decode_http_scrape(b"", &[]), Err(TrackerError::Empty));
        let bomb = [b"d5:files", &b"l".repeat(20_000)[..]].concat();
        assert_eq!(decode_http_scrape(&bomb, &[]), Err(TrackerError::Bencode));
        // More torrents than were asked for: over the limits of a reply.
        let many: String = (0..11_000).map(|n| format!("20:{n:020}de")).collect();
        assert_eq!(decode_http_scrape(format!("d5:filesd{many}ee").as_bytes(), &[]), Err(TrackerError::Bencode));
    }

    proptest::proptest! {
        #[test]
        fn no_scrape_does_any_harm(tracker: String, body: Vec<u8>) {
            let _ = scrape_url(&tracker, &[[0; 20]]);
            let _ = decode_http_scrape(&body, &[[0; 20]]);
        }
    }
}
