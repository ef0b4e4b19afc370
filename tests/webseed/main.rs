//! Web seeds (BEP 19): servers that answer well, badly or not at all, and where a URL may lead.

#[path = "../support/mod.rs"]
mod support;

mod reach;
mod replies;
mod session;
