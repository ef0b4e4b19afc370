//! Where the URL of a web seed may lead, before any request is sent (hardening: SSRF), and certificates.

use std::sync::Arc;
use std::time::Duration;

use super::session::fetching;
use crate::support::torrent::Content;
use crate::support::tracker::{Action, Tracker, answer};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_local_is_asked_without_a_query_only() {
    let content = Arc::new(Content::noise("file.bin", 50_000, 16 << 10, 4));
    let server = Tracker::start([127, 0, 0, 1].into(), |_, _| Action::Raw(answer("200 OK", "", b"")));
    let port = server.url("/").trim_end_matches('/').rsplit(':').next().expect("a port").to_owned();
    for url in [
        server.url("/reboot?now=1"),
        format!("http://localhost:{port}/file.bin?x"),
        format!("http://[::ffff:127.0.0.1]:{port}/file.bin?"),
        format!("http://2130706433:{port}/file.bin?x"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://[fe80::1]/file.bin".to_owned(),
    ] {
        let fetching = fetching(&content, &[&url]);
        fetching.error(0, "not allowed there", LIMIT).await;
        assert_eq!(fetching.downloaded(), 0);
        fetching.stop().await;
    }
    assert_eq!(server.seen().len(), 0, "nothing reached it");
    let fetching = fetching(&content, &["http://a.xn--80ak6aa92e.com/file.bin"]);
    fetching.error(0, "international host names are refused", LIMIT).await;
    fetching.stop().await;
}
