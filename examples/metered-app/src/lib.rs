//! A small shop. Middleware counts its requests, and it counts its orders.
//!
//! - `GET /products` lists what it sells.
//! - `POST /orders` takes `{"product": "teapot", "quantity": 2}`.

use functional_scaffold_metering::custom;
use metrics::{counter, describe_counter, describe_histogram, histogram};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spin_sdk::{
    http::{IntoResponse, Json, Method, Request, StatusCode, body::IncomingBodyExt as _},
    http_service,
};

#[derive(Serialize)]
struct Product {
    name: &'static str,
    euros: u32,
}

const PRODUCTS: [Product; 2] = [
    Product {
        name: "teapot",
        euros: 30,
    },
    Product {
        name: "kettle",
        euros: 55,
    },
];

#[derive(Deserialize)]
struct Order {
    product: String,
    quantity: u32,
}

/// The buckets of each histogram.
const BUCKETS: [custom::Buckets<'_>; 1] = [("shop_order_euros", &[50.0, 100.0, 500.0])];

#[http_service]
async fn shop(request: Request) -> anyhow::Result<impl IntoResponse> {
    // First in every request. Dropped with the handler, it sends what was recorded.
    let _flush = custom::install(&BUCKETS);
    describe_counter!("shop_orders_total", "Orders, by product.");
    describe_histogram!("shop_order_euros", "Value of an order.");

    let (code, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/products") => (StatusCode::OK, json!(PRODUCTS)),
        (&Method::POST, "/orders") => {
            let body = request.into_body().bytes().await?;
            order(serde_json::from_slice(&body).ok())
        }
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            json!({ "error": "not allowed" }),
        ),
    };
    Ok((code, Json(body)))
}

fn order(order: Option<Order>) -> (StatusCode, Value) {
    let Some(order) = order else {
        let error = r#"an order is {"product": "teapot", "quantity": 2}"#;
        return (StatusCode::BAD_REQUEST, json!({ "error": error }));
    };
    // A name of the list, so that the label cannot have a value of a client's choice.
    let Some(product) = PRODUCTS
        .iter()
        .find(|product| product.name == order.product)
    else {
        return (StatusCode::NOT_FOUND, json!({ "error": "no such product" }));
    };
    let euros = product.euros.saturating_mul(order.quantity);
    counter!("shop_orders_total", "product" => product.name).increment(1);
    histogram!("shop_order_euros").record(euros);
    (StatusCode::CREATED, json!({ "euros": euros }))
}
