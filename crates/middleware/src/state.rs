//! The state that the requests of one instance share. It is one instance with the
//! app's, and Spin sends it up to 128 requests, 16 at a time, on one thread.

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};

use functional_scaffold_metering::{
    Config, Meter, Workload,
    log::{self, Level},
    request_id::RequestIds,
    variables::{self, VariableError},
};
use spin_sdk::{wasip3::random::random::get_random_u64, wit_bindgen};

/// The label `endpoint` of a request without a route.
const UNMATCHED: &str = "unmatched";

/// The label `endpoint` of a request to one route too many.
const OTHER: &str = "other";

/// The routes that an instance distinguishes. Its manifest bounds them on Spin; another
/// host may pass on whatever a client sends.
const MAX_ENDPOINTS: usize = 64;

/// The longest route that is a label.
const MAX_ENDPOINT_BYTES: usize = 256;

/// The state of an instance.
pub struct Instance {
    /// Random number that distinguishes the instance from all others.
    nonce: u64,
    /// The ids of its requests.
    pub request_ids: RequestIds,
    endpoints: RefCell<Vec<&'static str>>,
    /// `None` if its configuration cannot be used.
    meter: OnceCell<Option<Meter>>,
}

thread_local! {
    static CURRENT: Rc<Instance> = Rc::new(Instance::new());
}

/// Returns this instance.
#[must_use]
pub fn current() -> Rc<Instance> {
    CURRENT.with(Rc::clone)
}

impl Instance {
    fn new() -> Self {
        let nonce = get_random_u64();
        Self {
            nonce,
            request_ids: RequestIds::new(nonce),
            endpoints: RefCell::default(),
            meter: OnceCell::new(),
        }
    }

    /// Returns what counts its requests, if the configuration can be used. The first
    /// call reads the variables.
    pub async fn meter(&self) -> Option<Meter> {
        if let Some(meter) = self.meter.get() {
            return meter.clone();
        }
        // Requests that arrive meanwhile read them, too, as in the service.
        let config = variables::load(Config::read).await;
        // Together with the yield of `respond_on_fresh_poll`: ADR 3, "A response leaves
        // in one write", rule 4.
        wit_bindgen::yield_async().await;
        self.meter.get_or_init(|| self.start(config)).clone()
    }

    fn start(&self, config: Result<Config, Vec<VariableError>>) -> Option<Meter> {
        match config {
            Ok(config) => Some(Meter::new(&config, Workload::default(), self.nonce)),
            Err(errors) => {
                let problems: Vec<_> = errors.iter().map(VariableError::to_string).collect();
                log::write_list(Level::Error, "misconfigured", "problems", &problems);
                None
            }
        }
    }

    /// Returns the label `endpoint` of a request to this route. Keeps each for the life
    /// of the instance.
    pub fn endpoint(&self, route: Option<&str>) -> &'static str {
        let Some(route) = route else {
            return UNMATCHED;
        };
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(known) = endpoints.iter().find(|&&known| known == route) {
            return known;
        }
        if endpoints.len() >= MAX_ENDPOINTS || route.len() > MAX_ENDPOINT_BYTES {
            return OTHER;
        }
        let endpoint = route.to_owned().leak();
        endpoints.push(endpoint);
        endpoint
    }
}
