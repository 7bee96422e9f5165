//! The apps in `examples/`: served and metered.

use functional_scaffold_testkit::{http, repository};
use functional_scaffold_tests::{PATIENCE, service::Service};

use crate::Result;

fn start(name: &str) -> Result<Service> {
    let manifest = repository().join("examples").join(name).join("spin.toml");
    Service::start_with(|options| options.manifest(manifest))
}

/// Sends a request, and returns the status and the body.
fn send(service: &Service, line: &str, body: &str) -> Result<(u16, String)> {
    let address = service.app.address();
    let response = http::request(address, line, &[], body.as_bytes(), PATIENCE)?;
    Ok((response.status, response.text()?))
}

fn labels(method: &str, endpoint: &str, status: &str, code: u16) -> String {
    format!("code=\"{code}\",endpoint=\"{endpoint}\",method=\"{method}\",status=\"{status}\"")
}

#[test]
fn an_app_that_no_one_here_wrote_is_metered() -> Result {
    let service = start("http-rust")?;
    for _ in 0..3 {
        let response = send(&service, "GET /hello", "")?;
        assert_eq!(response, (200, "Hello, world!".to_owned()));
    }
    // Without a route, Spin asks no component.
    assert_eq!(send(&service, "GET /nothing", "")?.0, 404);
    let expected = [(labels("GET", "/hello", "success", 200), 3)];
    service.wait_for("metrics:request_counter", &expected.into())
}

#[test]
fn the_shop_is_metered() -> Result {
    let service = start("metered-app")?;
    let order = r#"{"product": "teapot", "quantity": 2}"#;
    for (line, body, status) in [
        ("GET /products", "", 200),
        ("POST /orders", order, 201),
        ("POST /orders", order, 201),
        ("POST /orders", "teapots!", 400),
        ("POST /orders", r#"{"product": "car", "quantity": 1}"#, 404),
        ("GET /orders", "", 405),
    ] {
        let response = send(&service, line, body)?;
        assert_eq!(response.0, status, "{line} {body}: {}", response.1);
    }
    let expected = [
        (labels("GET", "/products", "success", 200), 1),
        (labels("POST", "/orders", "success", 201), 2),
        (labels("POST", "/orders", "rejected", 400), 1),
        (labels("POST", "/orders", "rejected", 404), 1),
        (labels("GET", "/orders", "rejected", 405), 1),
    ];
    service.wait_for("metrics:request_counter", &expected.into())?;
    // Its own metric, by its own batcher.
    let orders = [("product=\"teapot\"".to_owned(), 2)];
    service.wait_for("metrics:custom:shop_orders_total", &orders.into())
}
