//! The tracker over HTTP: `/announce` and `/scrape` (BEP 3, 7, 23, 48), every reply a bencoded dictionary with status
//! 200, a refusal as well. The address of a peer is that of its connection; `ip=` and proxies' headers are not believed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;

use super::connections::Listener;
use super::registry::{MAX_WANTED, Room};
use super::{Count, Shared, query};

/// The peers of a reply: those of both families share it.
const ROOM: Room = Room { v4: MAX_WANTED, v6: MAX_WANTED, both: true };

/// Whom a connection comes from.
#[derive(Clone, Copy, Debug)]
struct Remote(SocketAddr);

impl Connected<IncomingStream<'_, Listener>> for Remote {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Answers the listener's connections; never ends.
pub(super) async fn serve(listener: Listener, shared: Arc<Shared>) {
    let service = Router::new().fallback(answer).with_state(shared);
    let result = axum::serve(listener, service.into_make_service_with_connect_info::<Remote>()).await;
    if let Err(error) = result {
        tracing::error!("the tracker's HTTP side ends: {error}");
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Remote(from)): ConnectInfo<Remote>,
    method: Method,
    uri: Uri,
) -> Response {
    let asked = uri.query().unwrap_or_default();
    let body = match uri.path() {
        _ if method != Method::GET => {
            return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "a tracker answers GET\n")
                .into_response();
        }
        "/announce" => announce(&shared, from.ip().to_canonical(), asked),
        "/scrape" => scrape(&shared, asked),
        _ => return (StatusCode::NOT_FOUND, "this is a tracker: /announce and /scrape\n").into_response(),
    };
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

fn announce(shared: &Shared, from: IpAddr, asked: &str) -> Vec<u8> {
    let (asked, form) = match query::announce(asked) {
        Ok(read) => read,
        Err(reason) => {
            shared.count(Count::Refused);
            return query::failure(reason);
        }
    };
    match shared.announce(Instant::now(), from, &asked, ROOM, Count::Http) {
        Ok(answer) => {
            let (interval, min_interval) = (shared.interval.as_secs(), shared.interval.as_secs() / 2);
            query::announce_reply(&answer, form, from, interval, min_interval)
        }
        Err(refusal) => query::failure(&refusal.to_string()),
    }
}

fn scrape(shared: &Shared, asked: &str) -> Vec<u8> {
    match query::scrape(asked) {
        Ok(hashes) => {
            shared.count(Count::Scrape);
            let registry = shared.registry();
            let found: BTreeMap<_, _> =
                hashes.into_iter().filter_map(|hash| Some((hash, registry.scrape(&hash)?))).collect();
            drop(registry);
            query::scrape_reply(&found)
        }
        Err(reason) => {
            shared.count(Count::Refused);
            query::failure(reason)
        }
    }
}
