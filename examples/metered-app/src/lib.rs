//! A small shop, whose requests are counted by middleware.
//!
//! - `GET /products` lists what it sells.
//! - `POST /orders` takes `{"product": "teapot", "quantity": 2}`.

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

#[http_service]
async fn shop(request: Request) -> anyhow::Result<impl IntoResponse> {
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
    let Some(product) = PRODUCTS
        .iter()
        .find(|product| product.name == order.product)
    else {
        return (StatusCode::NOT_FOUND, json!({ "error": "no such product" }));
    };
    let euros = product.euros.saturating_mul(order.quantity);
    (StatusCode::CREATED, json!({ "euros": euros }))
}
