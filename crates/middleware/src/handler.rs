//! Counts one request.

use functional_scaffold_metering::{
    EncodedLease, FinishedRequest, Meter, RequestLabels, RouteLabels, Unacknowledged,
    http::method_label, time::Instant,
};
use spin_sdk::wasip3::http::types::{ErrorCode, Headers, Request, Response};

use crate::{
    next,
    response::{self, UNAVAILABLE},
    state::{self, Instance},
};

/// The header in which Spin names the pattern of the request's route.
const ROUTE_HEADER: &str = "spin-raw-component-route";

/// The status code with which the host responds if the app returns an error.
const ERROR: u16 = 500;

/// Passes a request on to the app, and counts it.
///
/// # Errors
/// The app's own, unchanged.
pub async fn handle(request: Request) -> Result<Response, ErrorCode> {
    let began = Instant::now();
    let instance = state::current();
    let Some(meter) = instance.meter().await else {
        return next::handle(request).await;
    };
    if meter.has_exposition() && response::is_scrape(&request) {
        return response::exposition(&meter);
    }
    let call = Call::new(&request, &instance, began);
    let lease = meter.lease(call.route(), || call.request_id.clone()).await;
    let Ok(lease) = lease else {
        // Without a lease, this is never `Unacknowledged`.
        let _ = call.record(&meter, UNAVAILABLE, None).await;
        let detail = "Redis has not acknowledged the request: the app did not get it";
        return response::unavailable(detail, &call.request_id);
    };
    let result = next::handle(request).await;
    let code = result.as_ref().map_or(ERROR, Response::get_status_code);
    match call.record(&meter, code, lease).await {
        Ok(()) => result,
        Err(Unacknowledged) => {
            let detail = "the app responded, but Redis has not acknowledged that, so the \
                          response is withheld";
            response::unavailable(detail, &call.request_id)
        }
    }
}

/// A request that is counted.
struct Call {
    began: Instant,
    method: &'static str,
    endpoint: &'static str,
    request_id: String,
}

impl Call {
    fn new(request: &Request, instance: &Instance, began: Instant) -> Self {
        let headers = request.get_headers();
        Self {
            began,
            method: method_label(&request.get_method()),
            endpoint: instance.endpoint(last(&headers, ROUTE_HEADER).as_deref()),
            request_id: instance
                .request_ids
                .next(last(&headers, "x-request-id").as_deref()),
        }
    }

    fn route(&self) -> RouteLabels<'static> {
        RouteLabels::new(self.method, self.endpoint)
    }

    async fn record(
        &self,
        meter: &Meter,
        code: u16,
        lease: Option<EncodedLease>,
    ) -> Result<(), Unacknowledged> {
        let request = FinishedRequest {
            labels: RequestLabels::new(self.method, self.endpoint, code),
            duration_nanos: Instant::now().nanos_since(self.began),
        };
        meter.record(&request, None, lease).await
    }
}

/// The last value of a header: the host adds its own after those that a client sent.
fn last(headers: &Headers, name: &str) -> Option<String> {
    let value = headers.get(name).pop()?;
    String::from_utf8(value).ok()
}
