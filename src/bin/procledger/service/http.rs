//! The page of metrics over HTTP, for `watch --metrics`.
//!
//! Prometheus sends one small request and reads one page, so this answers exactly that: `GET
//! /metrics`, one answer for each connection, in a bounded time. A request is at most 8 KiB, at
//! most eight connections are answered at the same time, and a page is at most as old as a second,
//! so that scraping costs no more than one reading of the ledgers a second. There is no
//! authentication: the address is a loopback one unless another is named.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::scrape::Scraper;
use crate::{
    exit::{Failure, Result},
    output, threads,
};

/// Limit on receiving a request, and on each write of the answer.
const PEER_LIMIT: Duration = Duration::from_secs(5);
const LONGEST_REQUEST: usize = 8 << 10;
const CONNECTIONS: usize = 8;
/// How long a page is reused.
const FRESH: Duration = Duration::from_secs(1);
/// Pause after an error of accept(2), such as too many open descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Parses `PORT`, on 127.0.0.1, or `ADDRESS:PORT`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let port =
        || text.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    text.parse().ok().or_else(port).ok_or_else(|| {
        "write a port, as in 9187, or an address and a port, as in 127.0.0.1:9187 or [::1]:9187"
            .to_owned()
    })
}

/// The ledgers whose metrics are served. Written by the watch, read for each page.
pub(crate) type Ledgers = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Serves metrics until the process ends.
///
/// # Errors
///
/// The address is in use or is not one of this machine, or no thread can be started.
pub(crate) fn serve(address: SocketAddr, ledgers: Ledgers, scraper: Scraper) -> Result<()> {
    let listener = TcpListener::bind(address).map_err(|error| {
        Failure::because(format!("failed to serve metrics at {address}"), &error)
    })?;
    let server =
        Arc::new(Server { ledgers, scraper, last: Mutex::default(), open: AtomicUsize::new(0) });
    threads::start("procledger-http", move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => server.accept(stream),
                Err(_) => std::thread::sleep(ACCEPT_AGAIN),
            }
        }
    })
}

#[derive(Debug)]
struct Server {
    ledgers: Ledgers,
    scraper: Scraper,
    /// The last page. Locked while a page is made, so that several requests share one reading.
    last: Mutex<Option<(Instant, String)>>,
    /// The number of connections that are being answered.
    open: AtomicUsize,
}

impl Server {
    fn accept(self: &Arc<Self>, stream: TcpStream) {
        let is_full = self.open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS;
        let server = Arc::clone(self);
        let answer = move || {
            // An error means that the peer is gone or too slow: there is nothing to report to it.
            let _ = server.answer(&stream);
            server.open.fetch_sub(1, Ordering::AcqRel);
        };
        // A connection that is not answered is closed.
        if is_full || threads::start("procledger-http", answer).is_err() {
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn answer(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PEER_LIMIT))?;
        let Some(request) = receive(stream)? else {
            return respond(
                stream,
                "400 Bad Request",
                "the request is too long or not HTTP\n",
                true,
            );
        };
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        match (method, path) {
            ("GET" | "HEAD", "/metrics") => {
                respond(stream, "200 OK", &self.page(), method == "GET")?;
            }
            ("GET" | "HEAD", _) => {
                respond(stream, "404 Not Found", "metrics are at /metrics\n", method == "GET")?;
            }
            _ => respond(stream, "405 Method Not Allowed", "use GET\n", true)?,
        }
        stream.flush()
    }

    fn page(&self) -> String {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return page.clone();
        }
        let ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (page, warnings) = self.scraper.page(ledgers);
        for warning in warnings {
            output::warn(&format!("metrics: {warning}"));
        }
        *last = Some((Instant::now(), page.clone()));
        page
    }
}

/// Returns the first line of a request, once all of it has arrived; `None` if that is not HTTP, too
/// long or too slow.
fn receive(mut stream: &TcpStream) -> io::Result<Option<String>> {
    let deadline = Instant::now() + PEER_LIMIT;
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > LONGEST_REQUEST {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    Ok(std::str::from_utf8(line).ok().filter(|line| line.contains(" HTTP/1.")).map(str::to_owned))
}

fn respond(mut stream: &TcpStream, status: &str, body: &str, with_body: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if with_body { body } else { "" };
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_the_loopback_address() {
        assert_eq!(address("9187"), Ok(SocketAddr::from(([127, 0, 0, 1], 9187))));
        assert_eq!(address("0.0.0.0:80"), Ok(SocketAddr::from(([0, 0, 0, 0], 80))));
        assert_eq!(address("[::1]:80").map(|it| it.is_ipv6()), Ok(true));
        for text in ["", "x", "localhost:80", "65536", "127.0.0.1"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
