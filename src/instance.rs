//! What the requests of one instance share. Spin sends an instance up to 128
//! requests, 16 at a time, on one thread, and drops it after a second's idling.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
};

use functional_scaffold_protocol::catalog::Catalog;
use spin_sdk::{wasip3::random::random::get_random_u64, wit_bindgen};

use crate::{
    algorithm::{self, Description},
    clock,
    config::{Config, ConfigError},
    in_flight::InFlight,
    log::{self, Level},
    metrics::{single_flight::SingleFlight, sinks::Sink, writer::Writer},
};

/// The instance's state.
pub struct Instance {
    /// When it began, in seconds since 1970.
    pub started_at: u64,
    /// Random, to tell it from every other instance.
    nonce: u64,
    requests: Cell<u64>,
    /// Those that it has at the moment.
    pub in_flight: InFlight,
    ready: OnceCell<Result<Rc<Ready>, Rc<[String]>>>,
}

/// What an instance has once its variables are read.
pub struct Ready {
    /// The variables.
    pub config: Config,
    /// The algorithm it serves.
    pub algorithm: Description,
    /// The increments that wait to be written.
    pub writer: RefCell<Writer>,
    /// Where they are written to.
    pub sink: Sink,
    /// The write of a batch.
    pub writing: SingleFlight,
}

thread_local! {
    static CURRENT: Rc<Instance> = Rc::new(Instance::begin());
}

/// The instance that runs this code.
#[must_use]
pub fn current() -> Rc<Instance> {
    CURRENT.with(Rc::clone)
}

impl Instance {
    fn begin() -> Self {
        Self {
            started_at: clock::unix_seconds(),
            nonce: get_random_u64(),
            requests: Cell::new(0),
            in_flight: InFlight::default(),
            ready: OnceCell::new(),
        }
    }

    /// The id of a request: the caller's if it is sound (1 to 128 letters,
    /// digits, `-`, `_`, `.`), otherwise one of this instance's own. Made of
    /// nonce and number: a random one would be a host call each.
    #[must_use]
    pub fn request_id(&self, sent: Option<&str>) -> String {
        let number = self.requests.get().wrapping_add(1);
        self.requests.set(number);
        match sent {
            Some(sent) if is_request_id(sent) => sent.to_owned(),
            _ => format!("{:016x}-{number}", self.nonce),
        }
    }

    /// Configuration, algorithm and what hangs on them.
    ///
    /// # Errors
    /// All that is wrong with them, a text each; the same at every call.
    pub async fn ready(&self) -> Result<Rc<Ready>, Rc<[String]>> {
        if let Some(ready) = self.ready.get() {
            return ready.clone();
        }
        // Requests that come before the first has read the variables read
        // them too, and one of the results is kept: waiting for another
        // request's task would cost every request more than that.
        let loaded = Config::load().await;
        // The host takes up a new request's first yield at once, and reading
        // the variables leaves it in no state to respond: see `turn::fresh`.
        wit_bindgen::yield_async().await;
        self.ready
            .get_or_init(|| self.prepare(loaded).map(Rc::new).map_err(Rc::from))
            .clone()
    }

    fn prepare(&self, loaded: Result<Config, Vec<ConfigError>>) -> Result<Ready, Vec<String>> {
        let refused = |problems: Vec<String>| {
            log::write_list(Level::Error, "misconfigured", "problems", &problems);
            problems
        };
        let config = loaded
            .map_err(|errors| refused(errors.iter().map(ConfigError::to_string).collect()))?;
        log::set_level(config.log_level);
        let algorithm = algorithm::describe().map_err(|error| refused(vec![error.to_string()]))?;
        Ok(Ready {
            writer: RefCell::new(Writer::new(
                Catalog::new(&config.prefix),
                algorithm.name.clone(),
                self.nonce,
                self.started_at,
            )),
            sink: Sink::new(&config),
            writing: SingleFlight::default(),
            algorithm,
            config,
        })
    }
}

fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::is_request_id;

    #[test]
    fn request_ids_are_validated() {
        for (text, sound) in [
            ("abc-1_2.3", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("é", false),
        ] {
            assert_eq!(is_request_id(text), sound, "{text:?}");
        }
        assert!(is_request_id(&"x".repeat(128)));
        assert!(!is_request_id(&"x".repeat(129)));
    }
}
