//! nginx as a web seed: one directory under several behaviours, told apart by the first part of the path.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Running, succeed};
use super::{free_address, wait_until};

pub(crate) struct Nginx {
    address: SocketAddr,
    scheme: &'static str,
    access: PathBuf,
    _process: Running,
}

impl Nginx {
    /// Serves `data`; its own files lie in `dir`, for at most `life`.
    ///
    /// `/plain/` with ranges, `/whole/` without, `/moved/` with a redirect for each file, `/busy/` for two connections at a
    /// time.
    #[track_caller]
    pub(crate) fn start(dir: &Path, data: &Path, life: Duration) -> Self {
        Self::start_with(dir, data, life, "", "http")
    }

    /// The same over TLS, with a certificate that nobody has signed.
    #[track_caller]
    pub(crate) fn start_tls(dir: &Path, data: &Path, life: Duration) -> Self {
        let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
        make.args(["-addext", "subjectAltName=DNS:localhost", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
        succeed(&mut make, Duration::from_secs(20));
        let tls = format!("ssl_certificate \"{}\"; ssl_certificate_key \"{}\";", certificate.display(), key.display());
        Self::start_with(dir, data, life, &tls, "https")
    }

    #[track_caller]
    fn start_with(dir: &Path, data: &Path, life: Duration, tls: &str, scheme: &'static str) -> Self {
        let address = free_address();
        let ssl = if tls.is_empty() { "" } else { " ssl" };
        let (own, root, access) = (dir.display(), data.display(), dir.join("access.log"));
        let conf = format!(
            r#"daemon off; master_process off; pid "{own}/nginx.pid"; error_log "{own}/error.log";
events {{ worker_connections 256; }}
http {{
  access_log "{own}/access.log"; default_type application/octet-stream; sendfile on;
  client_body_temp_path "{own}/t1"; proxy_temp_path "{own}/t2"; fastcgi_temp_path "{own}/t3";
  uwsgi_temp_path "{own}/t4"; scgi_temp_path "{own}/t5";
  limit_conn_zone $server_name zone=all:1m;
  server {{
    listen {address}{ssl}; server_name web; {tls}
    location /plain/ {{ alias "{root}/"; }}
    location /whole/ {{ alias "{root}/"; max_ranges 0; }}
    location /moved/ {{ if ($request_uri ~ ^/moved/(.*)$) {{ return 302 /plain/$1; }} }}
    location /busy/ {{ limit_conn all 2; limit_rate 2m; alias "{root}/"; }}
  }}
}}
"#
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, conf).expect("its configuration");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir);
        let process = Running::spawn("nginx", command, &dir.join("nginx.log"), life);
        wait_until(Duration::from_secs(10), "nginx answers", || std::net::TcpStream::connect(address).is_ok());
        Self { address, scheme, access, _process: process }
    }

    /// The URL of a path, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Requests so far: a line each.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::fs::read_to_string(&self.access).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}
