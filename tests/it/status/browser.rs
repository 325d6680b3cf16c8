//! A Chromium without a window, over WebDriver. `WEIR_SCREENSHOTS=DIR` keeps screenshots.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::support::child::ChildGuard;

/// A chromedriver and its one session; both end with it.
pub(super) struct Browser {
    _driver: ChildGuard,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(super) async fn start() -> Self {
        let mut driver = ChildGuard::spawn(Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()));
        // "ChromeDriver was started successfully on port 38383."
        let port = BufReader::new(driver.take_stdout())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ChromeDriver was started successfully on port ").map(str::to_owned))
            .expect("chromedriver says its port");
        let base = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
        let profile = tempfile::tempdir().unwrap();
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--window-size=1280,1000".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}});
        let asked = json!({"capabilities": {"alwaysMatch": options}});
        let answer = send(&format!("{base}/session"), &asked).await;
        let id = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned();
        Self { _driver: driver, session: format!("{base}/session/{id}"), _profile: profile }
    }

    pub(super) async fn post(&self, command: &str, body: Value) -> Value {
        send(&format!("{}/{command}", self.session), &body).await
    }

    pub(super) async fn evaluate(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []})).await
    }

    /// Waits until `condition` (an expression) is true.
    pub(super) async fn until(&self, condition: &str) {
        for _ in 0..300 {
            if self.evaluate(&format!("return Boolean({condition})")).await == json!(true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let text = self.evaluate("return document.body.innerText").await;
        panic!("it never came true that {condition}; the page says {text}");
    }

    pub(super) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// The keys go to whatever has the focus.
    pub(super) async fn keys(&self, keys: &[&str]) {
        for key in keys {
            let actions = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
            self.post("actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})).await;
        }
    }

    pub(super) async fn screenshot(&self, name: &str) {
        let Some(directory) = std::env::var_os("WEIR_SCREENSHOTS") else { return };
        let picture = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let path = std::path::Path::new(&directory).join(format!("{name}.png.base64"));
        std::fs::write(path, picture["data"].as_str().unwrap()).unwrap();
    }
}

impl Browser {
    pub(super) async fn open(&self, url: &str) {
        self.post("url", json!({"url": url})).await;
    }

    /// Sets the value of a form's field.
    pub(super) async fn fill(&self, selector: &str, value: &str) {
        let script = "const field = document.querySelector(arguments[0]); field.focus(); field.value = arguments[1];";
        self.post("execute/sync", json!({"script": script, "args": [selector, value]})).await;
    }

    /// The width of the screen, and light or dark.
    pub(super) async fn look(&self, width: u32, scheme: &str) {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Takes pictures of the page at both widths, light and dark; it is never wider than the screen.
    pub(super) async fn assert_fits(&self, name: &str) {
        for (width, scheme) in [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")] {
            self.look(width, scheme).await;
            self.screenshot(&format!("{name}-{width}-{scheme}")).await;
            // A page that is too wide makes Chromium zoom out, which widens both.
            let widths = self.evaluate("return [document.documentElement.scrollWidth, innerWidth]").await;
            let too_wide = self.evaluate(TOO_WIDE).await;
            assert!(
                widths[0].as_u64() <= Some(width.into()) && widths[1] == json!(width),
                "{name}: {widths} {too_wide}"
            );
        }
        self.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
    }

    /// Every control has a name, and the page has its landmarks and one title.
    pub(super) async fn assert_accessible(&self) {
        let tree = self.devtools("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().unwrap();
        let role = |node: &Value| node["role"]["value"].as_str().unwrap_or_default().to_owned();
        let shown = || nodes.iter().filter(|node| node["ignored"] != json!(true));
        for node in shown() {
            let control = [
                "button",
                "textbox",
                "searchbox",
                "combobox",
                "link",
                "checkbox",
                "meter",
                "image",
                "table",
                "region",
                "form",
            ];
            let nameless = node["name"]["value"].as_str().unwrap_or_default().trim().is_empty();
            assert!(!(control.contains(&role(node).as_str()) && nameless), "without a name: {node}");
        }
        for landmark in ["banner", "main", "navigation"] {
            assert!(shown().any(|node| role(node) == landmark), "no {landmark}");
        }
        let titles = self.evaluate("return document.querySelectorAll('h1').length").await;
        assert_eq!(titles, json!(1));
    }

    /// The keyboard goes through the page in the order of its text, and the focus is visible wherever it is.
    pub(super) async fn assert_focus_is_visible(&self, steps: usize) {
        self.evaluate("document.activeElement.blur(); window.stops = []").await;
        for _ in 0..steps {
            self.keys(&["\u{E004}"]).await;
            let wrong = self.evaluate(FOCUS).await;
            assert_eq!(wrong, json!(""), "the focus");
        }
    }

    /// No script of the page failed, and its security policy blocked nothing.
    pub(super) async fn assert_silent(&self) {
        let log = self.post("se/log", json!({"type": "browser"})).await;
        assert_eq!(log, json!([]), "the console");
    }
}

/// The elements that make the page too wide.
const TOO_WIDE: &str = "return [...document.querySelectorAll('body *')].filter((each) => \
    each.getBoundingClientRect().right > innerWidth + 1 && !each.closest('.scroll, pre, svg')) \
    .slice(0, 5).map((each) => each.outerHTML.slice(0, 120))";

/// Why the focus is not where it should be; empty where it is.
const FOCUS: &str = "const now = document.activeElement; \
    if (now === document.body) return ''; \
    const before = now.className === 'skip' ? undefined : window.stops.at(-1); \
    window.stops.push(now); \
    if (before && !(before.compareDocumentPosition(now) & 4)) return `out of order: ${now.outerHTML.slice(0, 120)}`; \
    const style = getComputedStyle(now); \
    if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) return `not visible: ${now.outerHTML.slice(0, 120)}`; \
    const box = now.getBoundingClientRect(); \
    return box.bottom > 0 && box.top < innerHeight ? '' : `outside: ${now.outerHTML.slice(0, 120)}`;";

impl Drop for Browser {
    fn drop(&mut self) {
        let session = self.session.clone();
        // Asks the driver to close the browser; the guard ends the driver.
        let end = format!("curl -s -X DELETE {session} >/dev/null");
        let _ = Command::new("sh").args(["-c", &end]).status();
    }
}

async fn send(url: &str, body: &Value) -> Value {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = hyper::Request::post(url).body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["value"].get("error").is_none(), "{url}: {}", answer["value"]["message"]);
    answer["value"].clone()
}
