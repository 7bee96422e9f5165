//! Pushes of instances whose executions compute: meanwhile nothing leaves them, so
//! that a push is late, or cut off on its way.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Until, load},
    process::POLL,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_not_given_up_because_executions_compute() -> Result {
    let pushgateway = Arc::new(Pushgateway::start().await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(relay_slowly(listener, Arc::clone(&pushgateway)));
    let app = App::start(&options(&url).rogue())?;
    // Each instance has always another request, and no pause in which a push could
    // be answered.
    let work = [Kind::invoke(r#""work 700""#)];
    let ledger = load(&app.url(""), &work, 4, Until::Requests(32)).await?;
    ensure!(ledger.with_code(200) == 32, "{ledger:?}");
    let deadline = tokio::time::Instant::now() + BOUND;
    loop {
        let counts = samples(&pushgateway).await?.into_iter().filter_map(|line| {
            let line = line.strip_prefix("http_requests_total{")?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        });
        let pushed: f64 = counts.sum();
        if pushed == 32.0 {
            break;
        }
        let in_time = tokio::time::Instant::now() < deadline;
        ensure!(in_time, "{pushed} of 32 are pushed: {}", app.output()?);
        tokio::time::sleep(POLL).await;
    }
    let given_up = app.log("batch_not_stored")?;
    ensure!(given_up.is_empty(), "given up: {given_up:?}");
    Ok(())
}

/// Takes longer for a push than there is between two requests.
async fn relay_slowly(listener: TcpListener, to: Arc<Pushgateway>) -> Result {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let to = Arc::clone(&to);
        tokio::spawn(async move {
            let Push { head, body } = read(&mut stream).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answer = send(&to, &[head.as_bytes(), &body].concat()).await?;
            stream.write_all(answer.as_bytes()).await?;
            anyhow::Ok(())
        });
    }
}

/// Pushes to this address. Nobody is where Redis would be.
fn options(url: &str) -> AppOptions {
    AppOptions::with_redis(1)
        .variable("metrics_backend", "pushgateway")
        .variable("pushgateway_url", url)
}

/// What an instance pushes after one request.
async fn push_of_an_instance() -> Result<Push> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = App::start(&options(&url))?;
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
