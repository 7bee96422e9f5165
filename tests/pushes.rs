//! A push that is cut off on its way, as where an execution computes and nothing
//! leaves its instance: a real Pushgateway gets the head of the app's own request.

use std::time::Duration;

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    pushgateway::Pushgateway,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

type Result<T = ()> = anyhow::Result<T>;

const BOUND: Duration = Duration::from_secs(10);

/// A request as it was sent.
struct Push {
    head: String,
    body: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_cut_off_takes_nothing_from_its_group() -> Result {
    let Push { head, body } = push_of_an_instance().await?;
    let pushgateway = Pushgateway::start().await?;
    let whole = [head.as_bytes(), &body].concat();
    let answer = send(&pushgateway, &whole).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let taken = samples(&pushgateway).await?;
    ensure!(!taken.is_empty(), "nothing was pushed: {head}");

    let answer = send(&pushgateway, head.as_bytes()).await?;
    let left = samples(&pushgateway).await?;
    ensure!(left == taken, "{answer}\nonly this is left: {left:?}");
    Ok(())
}

/// What an instance pushes after one request.
async fn push_of_an_instance() -> Result<Push> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    // Nobody is where Redis would be.
    let options = AppOptions::with_redis(1)
        .variable("metrics_backend", "pushgateway")
        .variable("pushgateway_url", &url);
    let app = App::start(&options)?;
    reqwest::get(app.url("/healthz")).await?;
    timeout(BOUND, async { read(&mut listener.accept().await?.0).await }).await?
}

/// Reads a push to its end.
async fn read(stream: &mut TcpStream) -> Result<Push> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).await?;
        ensure!(read > 0, "it ends in its head: {head}");
    }
    let lengths = head
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: "));
    let length = lengths
        .map(str::parse::<usize>)
        .sum::<std::result::Result<usize, _>>()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Push { head, body })
}

/// Sends so much of a request and no more, and gives the answer.
async fn send(pushgateway: &Pushgateway, part: &[u8]) -> Result<String> {
    timeout(BOUND, async {
        let mut stream = TcpStream::connect(pushgateway.address()).await?;
        stream.write_all(part).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    })
    .await?
}

/// What it holds of what was pushed, without the times of pushes.
async fn samples(pushgateway: &Pushgateway) -> Result<Vec<String>> {
    let text = pushgateway.scrape().await?;
    let pushed = text
        .lines()
        .filter(|line| line.contains("job=\"functional_scaffold\"") && !line.starts_with("push_"));
    Ok(pushed.map(str::to_owned).collect())
}
