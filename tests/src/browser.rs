//! A headless Chromium, driven by chromedriver over
//! [WebDriver](https://www.w3.org/TR/webdriver2/). Owns the few commands that the
//! tests need: JSON over HTTP, for which the client that is there anyway suffices.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{POLL, Process, free_port};

/// A window of a browser. Ended on drop.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    port: u16,
    /// The path of the session, once there is one.
    session: String,
    _driver: Process,
    _profile: TempDir,
}

/// What a page is looked at on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u32,
    /// Whether the reader prefers a dark page.
    pub dark: bool,
    /// Pixels of the screen to one of CSS.
    pub scale: u32,
}

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// There is no chromedriver, or no Chromium that it can start.
    pub async fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let profile = TempDir::new()?;
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}"));
        let mut driver = Process::start(
            &mut command,
            "install it with `apt-get install chromium chromium-driver`",
        )?;
        driver.wait_for_output("started successfully", Duration::from_secs(30))?;
        let mut browser = Self {
            client: Client::new(),
            port,
            session: "/session".to_owned(),
            _driver: driver,
            _profile: profile,
        };
        let folder = browser._profile.path().display();
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new",
                // Its sandbox refuses root, and a container may not have what it needs.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                format!("--user-data-dir={folder}"),
            ]},
        });
        let asked = json!({"capabilities": {"alwaysMatch": capabilities}});
        let session = browser.call("", asked).await?;
        let id = session["sessionId"].as_str().context("no session")?;
        browser.session = format!("{}/{id}", browser.session);
        Ok(browser)
    }

    /// Opens a page.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        let asked = json!({"url": url});
        self.call("/url", asked).await.map(drop)
    }

    /// What a script returns that runs in the page.
    ///
    /// # Errors
    /// It throws.
    pub async fn run(&self, script: &str) -> anyhow::Result<Value> {
        let asked = json!({"script": script, "args": []});
        self.call("/execute/sync", asked).await
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Errors
    /// `bound` passed; with the page's text.
    pub async fn wait_for(&self, expression: &str, bound: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + bound;
        while self.run(&format!("return Boolean({expression})")).await? != true {
            if tokio::time::Instant::now() > deadline {
                let text = self.run("return document.body.innerText").await?;
                anyhow::bail!("not within {bound:?}: {expression}, in\n{text}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Looks at the page on another screen.
    ///
    /// # Errors
    /// The browser's own.
    pub async fn look_on(&self, screen: Screen) -> anyhow::Result<()> {
        let scheme = if screen.dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", media).await?;
        let metrics = json!({
            "width": screen.width,
            "height": 800,
            "deviceScaleFactor": screen.scale,
            // A phone lays a page out on a wider plane, if the page lets it.
            "mobile": screen.width < 600,
        });
        let command = "Emulation.setDeviceMetricsOverride";
        self.devtools(command, metrics).await.map(drop)
    }

    /// The whole page as PNG.
    ///
    /// # Errors
    /// The browser's own.
    pub async fn screenshot(&self) -> anyhow::Result<Vec<u8>> {
        let size = "return [innerWidth, document.documentElement.scrollHeight]";
        let size = self.run(size).await?;
        let clip = json!({
            "x": 0,
            "y": 0,
            "width": size[0],
            "height": size[1],
            "scale": 1,
        });
        let asked = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let shot = self.devtools("Page.captureScreenshot", asked).await?;
        Ok(STANDARD.decode(shot["data"].as_str().context("no picture")?)?)
    }

    /// What the console said since it was asked last: also of requests that
    /// failed, and of what the page's policy forbade.
    ///
    /// # Errors
    /// The browser's own.
    pub async fn console(&self) -> anyhow::Result<Vec<String>> {
        let asked = json!({"type": "browser"});
        let entries = self.call("/se/log", asked).await?;
        let entries = entries.as_array().context("no log")?;
        Ok(entries.iter().map(|entry| entry.to_string()).collect())
    }

    async fn devtools(&self, command: &str, parameters: Value) -> anyhow::Result<Value> {
        let asked = json!({"cmd": command, "params": parameters});
        self.call("/goog/cdp/execute", asked).await
    }

    async fn call(&self, path: &str, asked: Value) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{}{}{path}", self.port, self.session);
        let request = self.client.post(url).body(asked.to_string());
        let answer = request.send().await?;
        let status = answer.status();
        let mut answer: Value = serde_json::from_str(&answer.text().await?)?;
        let value = answer["value"].take();
        ensure!(status.is_success(), "{path}: {value}");
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver leaves the browser behind where it is ended itself, and a
        // drop cannot wait for a future.
        let Ok(mut driver) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else {
            return;
        };
        let _ = driver.set_read_timeout(Some(Duration::from_secs(5)));
        let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let _ = write!(driver, "DELETE {} {head}", self.session);
        // It answers when the browser has ended.
        let _ = driver.read(&mut [0]);
    }
}
