//! The log: to stderr, warnings by default, more with `-v`.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::time::Uptime;

/// Starts the log; `verbose` counts `-v`. fuser's and other libraries' records come in through `log`.
pub(crate) fn start(verbose: u8) {
    // The DHT's crate calls an error what is none of the user's; we say what he should know.
    let directives = match verbose {
        0 => {
            "warn,fuser=error,mainline=off,igd_next=off,crab_nat=off,hickory_resolver=off,hickory_net=off,hickory_proto=off,librqbit_utp=error"
        }
        1 => {
            "info,fuser=warn,mainline=off,igd_next=off,crab_nat=off,hickory_resolver=off,hickory_net=off,hickory_proto=off,librqbit_utp=error"
        }
        2 => {
            "debug,fuser=info,mainline=off,igd_next=off,crab_nat=off,hickory_resolver=off,hickory_net=off,hickory_proto=off,hyper=info,reqwest=info,rustls=info,hyper_util=info,h2=info,librqbit_utp=info"
        }
        _ => "trace,fuser=debug,mainline=debug,hyper=info,rustls=info,hyper_util=info,h2=info,librqbit_utp=info",
    };
    // A second start (a test, an embedding program) keeps the first one's log.
    let _ = tracing_log::LogTracer::init();
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives))
            .with_timer(Uptime::default())
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            // A log that cannot be written (its reader is gone) must not panic.
            .log_internal_errors(false)
            .finish(),
    );
}
