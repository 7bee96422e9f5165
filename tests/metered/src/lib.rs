//! `metered`: an app that measures itself with the `metrics` crate, as its author would
//! write it. Clients choose what is counted.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

use functional_scaffold_metering::custom;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use spin_sdk::{
    http::{IntoResponse, Request, StatusCode, body::IncomingBodyExt as _},
    http_service,
    wasip3::clocks::monotonic_clock::wait_for,
};

/// A euro has cents, and an upload has bytes.
const BUCKETS: [custom::Buckets<'_>; 2] = [
    ("order_value_euros", &[10.0, 100.0]),
    ("upload_size_bytes", &[1_000.0, 1_000_000.0]),
];

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    let _flush = custom::install(&BUCKETS);
    describe();
    let path = request.uri().path().to_owned();
    let words: Vec<_> = path.split('/').skip(1).collect();
    match words[..] {
        ["order", kind, value] => order(kind, number(value)),
        ["upload", bytes] => histogram!("upload_size_bytes").record(number(bytes)),
        ["join"] => gauge!("visitors").increment(1.0),
        ["leave"] => gauge!("visitors").decrement(1.0),
        ["queue", name, length] => {
            gauge!("queue_length", "queue" => name.to_owned()).set(number(length))
        }
        ["pages"] => {
            let Ok(body) = request.into_body().bytes().await else {
                return (StatusCode::BAD_REQUEST, "no body".to_owned());
            };
            for page in String::from_utf8_lossy(&body).lines() {
                counter!("visits_total", "page" => page.to_owned()).increment(1);
            }
        }
        ["mistakes"] => mistakes(),
        ["hang"] => {
            gauge!("visitors").increment(1.0);
            drop(custom::install(&BUCKETS));
            wait_for(60_000_000_000).await;
        }
        ["metrics"] => {
            return match custom::exposition().await {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::NOT_FOUND, error.to_string()),
            };
        }
        _ => return (StatusCode::NOT_FOUND, path),
    }
    (StatusCode::OK, "counted".to_owned())
}

fn describe() {
    describe_counter!("orders_total", "Orders, by kind.");
    describe_histogram!("order_value_euros", "Value of an order.");
    describe_histogram!("upload_size_bytes", Unit::Bytes, "Size of an upload.");
    describe_gauge!("visitors", "Visitors that are here.");
    describe_counter!("visits_total", "Visits, by page.");
}

fn order(kind: &str, value: f64) {
    counter!("orders_total", "kind" => kind.to_owned()).increment(1);
    histogram!("order_value_euros", "kind" => kind.to_owned()).record(value);
}

fn mistakes() {
    counter!("http_requests_total").increment(1);
    counter!("not a name").increment(1);
    counter!("right_total", "le" => "1").increment(1);
    counter!("right_total", "__a" => "1").increment(1);
    counter!("right_total", "a" => "1", "a" => "2").increment(1);
    counter!("right_total").absolute(7);
    gauge!("right_total").set(1.0);
    gauge!("level").set(f64::NAN);
    histogram!("undeclared_seconds").record(1.0);
    histogram!("order_value_euros").record(-1.0);
    counter!("order_value_euros_count").increment(1);
    // The rest goes on.
    counter!("right_total").increment(3);
    counter!("right_total").increment(0);
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}
