//! Chromium without a screen, driven over a pipe by its DevTools protocol: messages of JSON that end
//! in a zero byte.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::folder;
use crate::node::eventually;

/// Names that it has, where it is installed.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// How long it may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, if it is installed.
pub(crate) fn installed() -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null());
        let version = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    })
}

/// A browser with one page.
pub(crate) struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    sent: u64,
    session: String,
    /// What it told unasked.
    events: Vec<Value>,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser {
    /// Opens `url` in a window of this width.
    pub(crate) fn open(program: &str, url: &str, width: u32) -> Self {
        let profile = folder();
        let mut process = Command::new("sh");
        // It reads commands from 3 and writes to 4.
        process.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 1>/dev/null 2>/dev/null"#]);
        process.args([program, "--headless=new", "--no-sandbox", "--disable-gpu"]);
        process.args(["--disable-dev-shm-usage", "--no-first-run"]);
        process.args([
            "--disable-background-networking",
            "--disable-component-update",
        ]);
        process.arg("--remote-debugging-pipe");
        process.arg(format!("--user-data-dir={}", profile.path().display()));
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn().expect("a shell");
        let commands = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        let (tell, messages) = channel();
        std::thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                if tell.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            commands,
            messages,
            sent: 0,
            session: String::new(),
            events: Vec::new(),
            _profile: profile,
        };
        browser.begin(url, width);
        browser
    }

    fn begin(&mut self, url: &str, width: u32) {
        let made = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach);
        attached["sessionId"]
            .as_str()
            .expect("a text")
            .clone_into(&mut self.session);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        let screen =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", screen);
        self.call("Page.navigate", json!({ "url": url }));
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("the browser runs");
        loop {
            let mut message = match self.messages.recv_timeout(PATIENCE) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => panic!("{method}: no answer"),
                Err(RecvTimeoutError::Disconnected) => panic!("{method}: the browser ended"),
            };
            if message["id"] == self.sent {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// What a JavaScript expression gives.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut evaluated = self.call("Runtime.evaluate", params);
        let failed = &evaluated["exceptionDetails"];
        assert!(failed.is_null(), "{expression}: {failed}");
        evaluated["result"]["value"].take()
    }

    /// Waits until an expression gives this.
    pub(crate) fn until(&mut self, expression: &str, expected: &Value) {
        let what = format!("{expression} to be {expected}");
        eventually(&what, || {
            (self.value(expression) == *expected).then_some(())
        });
    }

    /// Waits until there is such an element, and clicks it as a mouse does.
    pub(crate) fn click(&mut self, selector: &str) {
        let there = format!("document.querySelector({selector:?}) !== null");
        self.until(&there, &json!(true));
        let place = format!(
            "(() => {{ const one = document.querySelector({selector:?}); one.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const box = one.getBoundingClientRect(); return [box.x + Math.min(box.width / 2, 12), box.y + Math.min(box.height / 2, 12)]; }})()"
        );
        let place = self.value(&place);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key by its name.
    pub(crate) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let number = if key == "Escape" { 27 } else { 0 };
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Where it has sent requests, and every error of the page so far.
    pub(crate) fn said(&mut self) -> (Vec<String>, Vec<String>) {
        // Whatever was told before is here once this is answered.
        self.value("0");
        let (mut urls, mut errors) = (Vec::new(), Vec::new());
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    urls.push(
                        params["request"]["url"]
                            .as_str()
                            .expect("a text")
                            .to_owned(),
                    );
                }
                "Runtime.exceptionThrown" => errors.push(params["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled" if params["type"] == "error" => {
                    errors.push(params["args"].to_string());
                }
                "Log.entryAdded" if params["entry"]["level"] == "error" => {
                    errors.push(params["entry"].to_string());
                }
                _ => {}
            }
        }
        (urls, errors)
    }
}
