//! Progress of long work on standard error: a headline for each step, its time,
//! and a closing summary.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::Interrupted;

/// The finished steps.
#[derive(Default)]
pub(crate) struct Steps(Vec<Step>);

struct Step {
    name: String,
    time: Duration,
    succeeded: bool,
}

impl Steps {
    /// Runs one step. An error gets the step's name.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let outcome = work();
        let time = start.elapsed();
        if outcome.is_ok() {
            eprintln!("    {name}: done in {}", seconds(time));
        }
        self.0.push(Step {
            name: name.to_owned(),
            time,
            succeeded: outcome.is_ok(),
        });
        match outcome {
            Err(error) if !error.is::<Interrupted>() => {
                Err(error).with_context(|| format!("step \"{name}\" failed"))
            }
            outcome => outcome,
        }
    }

    /// A line for each step, and the total.
    pub(crate) fn summary(&self) -> String {
        let widths = self.0.iter().map(|step| step.name.len());
        let width = widths.max().unwrap_or(0).max("total".len());
        let mut lines = String::new();
        for Step {
            name,
            time,
            succeeded,
        } in &self.0
        {
            let outcome = if *succeeded { "ok    " } else { "FAILED" };
            lines.push_str(&format!(
                "  {outcome}  {name:width$}  {:>8}\n",
                seconds(*time)
            ));
        }
        let total = seconds(self.0.iter().map(|step| step.time).sum());
        lines.push_str(&format!("          {:width$}  {total:>8}\n", "total"));
        lines
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_in_error_and_summary() {
        let mut steps = Steps::default();
        steps.run("build", || Ok(())).expect("it succeeds");
        let failed = steps.run("unit tests", || -> Result<()> { anyhow::bail!("2 of 7") });
        let error = failed.expect_err("it fails");
        assert_eq!(format!("{error:#}"), "step \"unit tests\" failed: 2 of 7");
        let summary = steps.summary();
        let lines: Vec<&str> = summary.lines().collect();
        assert_eq!(lines[0], "  ok      build          0.0 s");
        assert_eq!(lines[1], "  FAILED  unit tests     0.0 s");
    }
}
