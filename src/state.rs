//! The state that the requests of one instance share. Spin sends an instance up
//! to 128 requests, 16 at a time, on one thread, and drops it after an idle
//! second.

use std::{cell::OnceCell, rc::Rc};

use functional_scaffold_metering::{
    Meter, Workload,
    http::backpressure::InFlight,
    log::{self, Level},
    request_id::RequestIds,
};
use spin_sdk::{wasip3::random::random::get_random_u64, wit_bindgen};

use crate::{
    config::{Config, Misconfigured},
    invoke::{self, Description},
    router,
};

/// The state of an instance from its start.
pub struct Instance {
    /// Random number that distinguishes the instance from all others.
    nonce: u64,
    /// The ids of its requests.
    pub request_ids: RequestIds,
    /// The requests in flight.
    pub in_flight: InFlight,
    app: OnceCell<Result<Rc<AppState>, Rc<Misconfigured>>>,
}

/// The state of an instance once its variables are read.
pub struct AppState {
    /// The options.
    pub config: Config,
    /// The algorithm that it serves.
    pub algorithm: Description,
    /// Counts its requests.
    pub meter: Meter,
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
            in_flight: InFlight::default(),
            app: OnceCell::new(),
        }
    }

    /// Returns the state that depends on the configuration. The first call reads
    /// the variables.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration or the algorithm; the
    /// same for every call.
    pub async fn app(&self) -> Result<Rc<AppState>, Rc<Misconfigured>> {
        if let Some(app) = self.app.get() {
            return app.clone();
        }
        // Requests that arrive before the first one has read the variables read
        // them too, and one result is kept. Waiting for another request's task
        // would cost every request more than that.
        let loaded = Config::load().await;
        // Reading variables calls `block_in_place` in the host, after which a
        // response would leave in two writes until the host's task is polled again.
        // A yield causes that, but not a new request's first one. This is the first;
        // the second is in `respond_on_fresh_poll`. ADR 3, "A response leaves in one
        // write", rule 4.
        wit_bindgen::yield_async().await;
        self.app
            .get_or_init(|| self.start(loaded).map(Rc::new).map_err(Rc::new))
            .clone()
    }

    fn start(&self, loaded: Result<Config, Misconfigured>) -> Result<AppState, Misconfigured> {
        let started = loaded.and_then(|config| {
            log::set_level(config.log_level);
            match invoke::load_description() {
                Ok(algorithm) => Ok((config, algorithm)),
                Err(error) => Err(Misconfigured {
                    problems: vec![error.to_string()],
                    access: config.access,
                }),
            }
        });
        let (config, algorithm) = started.inspect_err(|misconfigured| {
            let problems = &misconfigured.problems;
            log::write_list(Level::Error, "misconfigured", "problems", problems);
        })?;
        let workload = Workload {
            algorithm: algorithm.name.clone(),
            endpoints: &router::INVOKE_ENDPOINTS,
        };
        Ok(AppState {
            meter: Meter::new(&config.metering, workload, self.nonce),
            algorithm,
            config,
        })
    }
}
