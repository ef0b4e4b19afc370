//! Values on the command line: sizes in KiB/MiB/GiB, rates per second, times in s/m/h.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};

use crate::proxy::Proxy;

/// A proxy. What is none is not repeated in the error, as clap would: it may hold a password.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyUrl;

impl TypedValueParser for ProxyUrl {
    type Value = Proxy;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Proxy, clap::Error> {
        let proxy = Proxy::parse(value.to_str().unwrap_or_default());
        proxy.map_err(|why| command.clone().error(ErrorKind::ValueValidation, why))
    }
}

/// A host, by name or in digits, and a port.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    match text.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && port(number) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no HOST:PORT")),
    }
}

/// Bytes: `4096`, `512KiB`, `1.5GiB`; `K`, `KB` and the like mean the same 1024s.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write bytes, or a number with KiB, MiB, GiB or TiB");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" if !unit.to_ascii_lowercase().contains('i') => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let unit = 1u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    let value: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = value * 2f64.powi(shift);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range first")]
    if (0.0..2f64.powi(63)).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Bytes per second: as [`size`], with or without `/s`.
///
/// # Errors
/// A sentence for the user; 0 is refused.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    match size(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(0) => Err("a rate of 0 moves nothing: leave the option out for no limit".to_owned()),
        Ok(rate) => Ok(rate),
        Err(_) => Err(format!("`{text}` is no rate: write bytes per second, or a number with KiB or MiB")),
    }
}

/// Memory: at least 1 MiB.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| {
        if bytes < 1 << 20 { Err("at least 1MiB is needed to put a piece together".to_owned()) } else { Ok(bytes) }
    })
}

/// A time: `90` or `90s`, `5m`, `1h`.
///
/// # Errors
/// A sentence for the user; 0 and over a year are refused.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write a number of seconds above 0, or one with s, m or h");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim() {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * unit;
    if seconds > 0.0 && seconds < 31_536_000.0 { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// A share ratio: a number above 0.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| *ratio > 0.0 && ratio.is_finite());
    ratio.ok_or_else(|| format!("`{text}` is no ratio: write a number above 0, like 1.5"))
}

/// An address to listen on: `ADDR:PORT`, `:PORT` or `PORT` on every address, `ADDR` with port 6881.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    address(text, 6881)
}

/// As [`listen`], with a tracker's port 6969.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn tracker_listen(text: &str) -> Result<SocketAddr, String> {
    address(text, 6969)
}

fn address(text: &str, port: u16) -> Result<SocketAddr, String> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    text.parse()
        .or_else(|_| text.strip_prefix(':').unwrap_or(text).parse().map(|port| SocketAddr::new(any, port)))
        .or_else(|_| text.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, port)))
        .map_err(|_| format!("`{text}` is no address: write ADDR:PORT, like 192.0.2.1:{port} or [::]:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_may_have_a_fraction() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 64 << 10),
            ("64k", 64 << 10),
            ("1MB", 1 << 20),
            ("1.5GiB", 3 << 29),
            ("2TiB", 2 << 40),
            ("512B", 512),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1XiB", "1.2.3M", "99999999999TiB", "i", "1i", "1iB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_times_refuse_nothing_at_all() {
        assert_eq!(rate("64KiB"), Ok(65536));
        assert_eq!(rate("64KiB/s"), Ok(65536));
        assert!(rate("0").is_err());
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3600)));
        for text in ["0", "-1", "1d", "", "nan", "inf", "9999999h"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(memory("4KiB").is_err());
        assert_eq!(ratio("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "", "1:2"] {
            assert!(ratio(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listening_takes_an_address_a_port_or_both() {
        for (text, addr) in [
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("7000", "[::]:7000"),
            (":7000", "[::]:7000"),
            ("127.0.0.2", "127.0.0.2:6881"),
            ("[::1]:5", "[::1]:5"),
            ("::1", "[::1]:6881"),
        ] {
            assert_eq!(listen(text).map(|a| a.to_string()), Ok(addr.to_owned()), "{text}");
        }
        assert_eq!(tracker_listen("::1").map(|a| a.to_string()), Ok("[::1]:6969".to_owned()));
        assert!(listen("localhost:http").is_err());
    }
}
