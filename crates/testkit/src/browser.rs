//! A headless Chromium, driven by chromedriver over
//! [WebDriver](https://www.w3.org/TR/webdriver2/): the few commands that the tests
//! need, as JSON over HTTP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, on_free_port, poll_until},
    program::Program,
};

/// The program.
pub const CHROMEDRIVER: Program = Program {
    name: "chromedriver",
    executables: &["chromedriver"],
    package: "chromium chromium-driver",
};

/// A window of a browser. Closed on drop.
#[derive(Debug)]
pub struct Browser {
    driver: SocketAddr,
    /// The path of the session, once there is one.
    session: String,
    _process: Process,
    _profile: TempDir,
}

/// A screen that a page is displayed on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// The width in CSS pixels.
    pub width: u32,
    /// Whether the reader prefers a dark page.
    pub dark: bool,
    /// Device pixels per CSS pixel.
    pub scale: u32,
}

impl Browser {
    /// Starts a window.
    ///
    /// # Errors
    /// There is no chromedriver, or no Chromium that it can start.
    pub fn start() -> anyhow::Result<Self> {
        let profile = TempDir::new()?;
        let program = CHROMEDRIVER.find()?;
        let (process, driver) = on_free_port(|port| {
            let mut command = Command::new(&program);
            let mut process = Process::start(command.arg(format!("--port={port}")))?;
            process.wait_for_output("started successfully", START_TIMEOUT)?;
            Ok((process, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        })?;
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new",
                // Its sandbox refuses root, and does not work in every container.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                format!("--user-data-dir={}", profile.path().display()),
            ]},
        });
        let mut browser = Self {
            driver,
            session: "/session".to_owned(),
            _process: process,
            _profile: profile,
        };
        let capabilities = json!({"capabilities": {"alwaysMatch": capabilities}});
        let session = browser.call("", &capabilities)?;
        let id = session["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// Opens a page.
    ///
    /// # Errors
    /// The page does not exist.
    pub fn open(&self, url: &str) -> anyhow::Result<()> {
        self.call("/url", &json!({"url": url})).map(drop)
    }

    /// Runs a script in the page and returns its result.
    ///
    /// # Errors
    /// The script throws.
    pub fn run(&self, script: &str) -> anyhow::Result<Value> {
        self.call("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Errors
    /// `bound` passed; with the page's text.
    pub fn wait_for(&self, expression: &str, bound: Duration) -> anyhow::Result<()> {
        let script = format!("return Boolean({expression})");
        let met = poll_until(bound, || {
            ensure!(self.run(&script)? == true, "not true: {expression}");
            Ok(())
        });
        met.with_context(|| match self.run("return document.body.innerText") {
            Ok(text) => format!("the page is\n{text}"),
            Err(error) => format!("no page: {error:#}"),
        })
    }

    /// Displays the page on another screen.
    ///
    /// # Errors
    /// The browser's own.
    pub fn display_on(&self, screen: Screen) -> anyhow::Result<()> {
        let scheme = if screen.dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &media)?;
        let metrics = json!({
            "width": screen.width,
            "height": 800,
            "deviceScaleFactor": screen.scale,
            // A phone uses a wider layout, unless the page forbids it.
            "mobile": screen.width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)
            .map(drop)
    }

    /// The whole page as PNG.
    ///
    /// # Errors
    /// The browser's own.
    pub fn screenshot(&self) -> anyhow::Result<Vec<u8>> {
        let size = self.run("return [innerWidth, document.documentElement.scrollHeight]")?;
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let parameters = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let image = self.devtools("Page.captureScreenshot", &parameters)?;
        Ok(STANDARD.decode(image["data"].as_str().context("no image")?)?)
    }

    /// The console's lines since the last call, including failed requests and
    /// violations of the page's policy.
    ///
    /// # Errors
    /// The browser's own.
    pub fn console(&self) -> anyhow::Result<Vec<String>> {
        let entries = self.call("/se/log", &json!({"type": "browser"}))?;
        let entries = entries.as_array().context("no log")?.iter();
        Ok(entries.map(Value::to_string).collect())
    }

    fn devtools(&self, command: &str, parameters: &Value) -> anyhow::Result<Value> {
        let call = json!({"cmd": command, "params": parameters});
        self.call("/goog/cdp/execute", &call)
    }

    fn call(&self, path: &str, parameters: &Value) -> anyhow::Result<Value> {
        let line = format!("POST {}{path}", self.session);
        let body = parameters.to_string();
        let response = http::request(self.driver, &line, &[], body.as_bytes(), http::TIMEOUT)?;
        let mut value: Value = serde_json::from_slice(&response.body)?;
        let value = value["value"].take();
        ensure!(response.status == 200, "{path}: {value}");
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A killed driver would leave its browser behind. It responds when the browser
        // has ended.
        let line = format!("DELETE {}", self.session);
        let _gone = http::request(self.driver, &line, &[], b"", Duration::from_secs(8));
    }
}
