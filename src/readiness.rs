//! `/readyz`: whether everything the service depends on answers, a line each.

use std::rc::Rc;

use crate::{answer::Answer, config::Backend, instance::Ready};

/// 200 if every dependency is well, otherwise 503; a line for each.
pub async fn answer(ready: &Result<Rc<Ready>, Rc<[String]>>, request_id: &str) -> Answer {
    let mut lines = Vec::new();
    let mut well = true;
    let mut line = |name: &str, state: Result<String, String>| match state {
        Ok(text) => lines.push(format!("{name}: ok ({text})")),
        Err(text) => {
            well = false;
            lines.push(format!("{name}: {text}"));
        }
    };
    match ready {
        Err(problems) => problems
            .iter()
            .for_each(|problem| line("configuration", Err(problem.clone()))),
        Ok(ready) => {
            let algorithm = &ready.algorithm;
            line("configuration", Ok("every variable".to_owned()));
            line(
                "algorithm",
                Ok(format!("{} {}", algorithm.name, algorithm.version)),
            );
            match ready.config.backend {
                Backend::Off => line("metrics", Ok("off".to_owned())),
                Backend::Redis => {
                    let authority = ready.config.redis.authority();
                    let ping = ready.store.ping().await;
                    line(
                        "redis",
                        ping.map(|()| authority.clone())
                            .map_err(|error| format!("{authority}: {error}")),
                    );
                }
            }
        }
    }
    let body = lines.join("\n") + "\n";
    Answer {
        code: if well { 200 } else { 503 },
        ..Answer::ok(request_id, "text/plain; charset=utf-8", body.into_bytes())
    }
}
