//! `plain`: an app on Spin that knows nothing of metrics and responds in every way, for
//! the tests of the middleware.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]
#![allow(
    unsafe_code,
    reason = "the export macro generates the C entry points of the component ABI"
)]

use std::{cell::Cell, hint, time::Duration};

use spin_sdk::{
    wasip3::{
        clocks::monotonic_clock,
        exports::http::handler::Guest,
        http::types::{ErrorCode, Fields, Method, Request, Response, Trailers},
        random::random::get_random_u64,
        wit_future, wit_stream,
    },
    wit_bindgen::{self, FutureReader, StreamReader, StreamResult, StreamWriter},
};

struct Plain;

spin_sdk::wasip3::http::service::export!(Plain with_types_in spin_sdk::wasip3);

thread_local! {
    static NONCE: u64 = get_random_u64();
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

type Headers = Vec<(String, Vec<u8>)>;
type BodyEnd = Result<Option<Trailers>, ErrorCode>;

impl Guest for Plain {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        let number: u64 = argument.parse().unwrap_or_default();
        match path {
            "/code" => text(u16::try_from(number).unwrap_or(200), "as asked\n"),
            "/head" => head_only(&request, number),
            "/echo" => echo(request),
            "/stream" => stream(number),
            "/slow" => {
                sleep(Duration::from_millis(number)).await;
                text(200, "slow\n")
            }
            "/compute" => {
                compute(number);
                text(200, "computed\n")
            }
            "/endless" => endless(),
            "/broken" => broken(),
            "/error" => Err(ErrorCode::InternalError(Some("asked to fail".to_owned()))),
            "/trap" => panic!("asked to trap"),
            "/hello" => text(200, "hello\n"),
            _ if path.starts_with("/invoke") => invoke(request).await,
            _ => text(404, "no such page\n"),
        }
    }
}

/// Responds as the service does with the `rogue` algorithm, with an id that names the
/// instance.
async fn invoke(request: Request) -> Result<Response, ErrorCode> {
    let (verdict, verdict_reader) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Request::consume_body(request, verdict_reader);
    drop(verdict);
    let body = body.collect().await;
    let body = String::from_utf8_lossy(&body);
    let (code, words) = match &*body {
        r#""nothing""# => (200, "done\n"),
        r#""fail""# => (500, "failed\n"),
        r#""trap""# => panic!("asked to trap"),
        r#""loop""# => loop {
            hint::black_box(());
        },
        body if body.starts_with(r#""print "#) => {
            let line = body.trim_start_matches(r#""print "#).trim_end_matches('"');
            println!("{}", line.replace("\\\"", "\"").replace("\\\\", "\\"));
            (200, "printed\n")
        }
        _ => (422, "no such misdeed\n"),
    };
    let number = REQUESTS.get() + 1;
    REQUESTS.set(number);
    let id = NONCE.with(|nonce| format!("{nonce:016x}-{number}"));
    respond(code, &[("x-request-id", &id)], words)
}

fn text(code: u16, text: &str) -> Result<Response, ErrorCode> {
    respond(code, &[], text)
}

fn respond(code: u16, headers: &[(&str, &str)], text: &str) -> Result<Response, ErrorCode> {
    let length = text.len().to_string();
    let own = [("content-type", "text/plain"), ("content-length", &length)];
    let (mut writer, end, response) = response(code, &[headers, &own].concat())?;
    let text = text.as_bytes().to_vec();
    wit_bindgen::spawn(async move {
        writer.write_all(text).await;
        drop(end);
    });
    Ok(response)
}

/// The length of a body, which a `HEAD` does not get.
fn head_only(request: &Request, length: u64) -> Result<Response, ErrorCode> {
    let length = match request.get_method() {
        Method::Head => length.to_string(),
        _ => "0".to_owned(),
    };
    let (writer, end, response) = response(200, &[("content-length", &length)])?;
    drop((writer, end));
    Ok(response)
}

/// The request's own body and trailers, not read here.
fn echo(request: Request) -> Result<Response, ErrorCode> {
    let headers = request.get_headers().copy_all();
    let kept = |(name, _): &(String, Vec<u8>)| {
        ["content-type", "content-length", "trailer", "x-twice"].contains(&name.as_str())
    };
    let headers: Headers = headers.into_iter().filter(kept).collect();
    let (verdict, verdict_reader) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, verdict_reader);
    drop(verdict);
    new_response(200, &headers, body, trailers)
}

/// Pieces of a body of unknown length, with pauses, and a trailer.
fn stream(pieces: u64) -> Result<Response, ErrorCode> {
    let (mut writer, end, response) = response(200, &[("trailer", "x-pieces")])?;
    wit_bindgen::spawn(async move {
        for piece in 0..pieces {
            let rest = writer.write_all(format!("piece {piece}\n").into()).await;
            if !rest.is_empty() {
                // The client went away; another write would be a trap.
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        drop(writer);
        let trailers = [("x-pieces".to_owned(), pieces.to_string().into())];
        let _ = end.write(Ok(Fields::from_list(&trailers).ok())).await;
    });
    Ok(response)
}

/// A body that ends when the client goes away.
fn endless() -> Result<Response, ErrorCode> {
    let (mut writer, end, response) = response(200, &[])?;
    wit_bindgen::spawn(async move {
        loop {
            let (result, _rest) = writer.write(vec![b'.'; 16 * 1024]).await;
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
        }
        drop(end);
    });
    Ok(response)
}

/// A body that ends with an error.
fn broken() -> Result<Response, ErrorCode> {
    let (mut writer, end, response) = response(200, &[])?;
    wit_bindgen::spawn(async move {
        writer.write_all(b"the first half".to_vec()).await;
        // Before that, the host would not even send the head.
        sleep(Duration::from_millis(100)).await;
        drop(writer);
        let _ = end.write(Err(ErrorCode::HttpResponseIncomplete)).await;
    });
    Ok(response)
}

/// Counts down for some microseconds each.
fn compute(microseconds: u64) {
    let end = monotonic_clock::now() + microseconds * 1_000;
    while monotonic_clock::now() < end {
        (0..1_000).for_each(|number| {
            hint::black_box(number);
        });
    }
}

async fn sleep(time: Duration) {
    monotonic_clock::wait_for(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).await;
}

type Parts = (
    StreamWriter<u8>,
    wit_bindgen::FutureWriter<BodyEnd>,
    Response,
);

/// A response whose body and end are still to be written.
fn response(code: u16, headers: &[(&str, &str)]) -> Result<Parts, ErrorCode> {
    let headers = headers
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.into()));
    let headers: Headers = headers.collect();
    let (writer, body) = wit_stream::new();
    let (end, end_reader) = wit_future::new(|| Ok(None));
    Ok((writer, end, new_response(code, &headers, body, end_reader)?))
}

fn new_response(
    code: u16,
    headers: &[(String, Vec<u8>)],
    body: StreamReader<u8>,
    end: FutureReader<BodyEnd>,
) -> Result<Response, ErrorCode> {
    let headers = Fields::from_list(headers)
        .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let (response, _sent) = Response::new(headers, Some(body), end);
    let set = response.set_status_code(code);
    set.map_err(|()| ErrorCode::InternalError(Some("status code".to_owned())))?;
    Ok(response)
}
