//! Not a scenario: a real headless browser, controlled over a pipe (the `DevTools` protocol).
//!
//! The browser lives as long as the pipe: when the test drops it, even after a failure, the browser
//! ends. It has a folder of its own in the test's folder, makes no network requests, and opens
//! files only.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::{Value, json};

use crate::support::{Guard, PATIENCE, Place, until};

/// A browser with one page.
pub(crate) struct Browser {
    requests: Option<File>,
    answers: Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// What the page reported: console messages, exceptions, refused content, failed requests.
    complaints: Vec<String>,
    child: Guard,
}

impl Browser {
    pub(crate) fn start(place: &Place) -> Self {
        let (theirs_in, requests) = std::io::pipe().expect("a pipe");
        let (answers, theirs_out) = std::io::pipe().expect("a pipe");
        let (theirs_in, theirs_out) = (OwnedFd::from(theirs_in), OwnedFd::from(theirs_out));
        let child = launch(place, &theirs_in, &theirs_out);
        drop((theirs_in, theirs_out));
        let mut browser = Self {
            requests: Some(File::from(OwnedFd::from(requests))),
            answers: hear(OwnedFd::from(answers)),
            next: 0,
            session: None,
            complaints: Vec::new(),
            child,
        };
        let target = browser.ask("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", &attach);
        browser.session = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Runtime.enable", "Log.enable", "Network.enable", "Page.enable"] {
            browser.ask(domain, &json!({}));
        }
        browser
    }

    /// Opens a file and waits until it is loaded completely.
    pub(crate) fn open(&mut self, file: &Path) {
        let url = format!("file://{}", file.display());
        let opened = self.ask("Page.navigate", &json!({ "url": url }));
        assert!(opened.get("errorText").is_none(), "{opened}");
        let ready = format!("location.href === {url:?} && document.readyState === 'complete'");
        until("the page is whole", || self.evaluate(&ready) == Value::Bool(true));
    }

    /// Returns the value of an expression in the page.
    #[track_caller]
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let request = json!({ "expression": expression, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", &request);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Sets the size of a phone or of a desktop.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600
        });
        self.ask("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Sets the preferred color scheme: `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Presses a key that types `text`, as a keyboard does.
    pub(crate) fn press(&mut self, key: &str, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
                event["windowsVirtualKeyCode"] = 13.into();
            } else if key == "Tab" {
                event["windowsVirtualKeyCode"] = 9.into();
            }
            self.ask("Input.dispatchKeyEvent", &event);
        }
    }

    /// Returns everything that the page has reported so far.
    pub(crate) fn complaints(&mut self) -> &[String] {
        // All earlier reports have arrived when this is answered.
        self.evaluate("1");
        &self.complaints
    }

    /// Sends a request over the pipe and returns its answer; events in between are recorded.
    #[track_caller]
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let mut request = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        let pipe = self.requests.as_mut().expect("open until the end");
        write!(pipe, "{request}\0").expect("the browser listens");
        loop {
            let answer = self.answers.recv_timeout(PATIENCE);
            let mut answer = answer.unwrap_or_else(|error| panic!("{method}: {error}"));
            if answer["id"] == self.next {
                assert!(answer.get("error").is_none(), "{method}: {answer:#}");
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let noted = match event["method"].as_str() {
            Some("Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded") => true,
            Some("Network.requestWillBeSent") => {
                let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
                !["file://", "data:", "about:"].iter().any(|harmless| url.starts_with(harmless))
            }
            _ => false,
        };
        if noted {
            self.complaints.push(event.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        // It ends all processes that it has started; the guard is for a browser that does not.
        drop(self.requests.take());
        let since = std::time::Instant::now();
        while self.child.is_running() && since.elapsed() < PATIENCE / 3 {
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// The browser reads requests from descriptor 3 and answers on 4.
fn launch(place: &Place, requests: &OwnedFd, answers: &OwnedFd) -> Guard {
    let profile = place.path().join(format!("browser-{}", place.marker()));
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-quic", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--remote-debugging-pipe"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .env("HOME", place.path())
        .env("PROCLEDGER_IT_MARKER", place.marker())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (requests, answers) = (requests.as_raw_fd(), answers.as_raw_fd());
    #[expect(unsafe_code, reason = "only a child can give its descriptors these numbers")]
    // SAFETY: dup2(2) and fcntl(2) are async-signal-safe, and nothing else happens there. Both
    // descriptors are first moved away from 3 and 4; the originals are closed by exec.
    unsafe {
        command.pre_exec(move || {
            let away = |fd| match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10) {
                -1 => Err(std::io::Error::last_os_error()),
                moved => Ok(moved),
            };
            let (from, to) = (away(requests)?, away(answers)?);
            for (fd, number) in [(from, 3), (to, 4)] {
                if libc::dup2(fd, number) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Guard(command.spawn().expect("chromium"))
}

/// Messages end with a NUL.
fn hear(pipe: OwnedFd) -> Receiver<Value> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for message in BufReader::new(File::from(pipe)).split(0) {
            let Ok(message) = message else { return };
            let value = serde_json::from_slice(&message).expect("JSON");
            if sender.send(value).is_err() {
                return;
            }
        }
    });
    receiver
}
