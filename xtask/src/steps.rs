//! Progress of long work: a headline for each step, the time it took, and a
//! closing summary. On standard error, in order with what cargo says there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::interrupt::Interrupted;

/// The steps done so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<Done>,
}

struct Done {
    name: String,
    time: Duration,
    succeeded: bool,
}

impl Steps {
    /// Does one step.
    ///
    /// # Errors
    ///
    /// What `work` ended with, under the step's name.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let outcome = work();
        let time = start.elapsed();
        if outcome.is_ok() {
            eprintln!("    {name}: done in {}", seconds(time));
        }
        self.done.push(Done {
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

    /// A line for each step, and the sum.
    pub(crate) fn summary(&self) -> String {
        let width = self.done.iter().map(|step| step.name.len()).max();
        let width = width.unwrap_or(0).max("in all".len());
        let mut lines = String::new();
        for step in &self.done {
            let outcome = if step.succeeded { "ok    " } else { "FAILED" };
            let (name, time) = (&step.name, seconds(step.time));
            lines.push_str(&format!("  {outcome}  {name:width$}  {time:>8}\n"));
        }
        let sum = seconds(self.done.iter().map(|step| step.time).sum());
        lines.push_str(&format!("          {:width$}  {sum:>8}\n", "in all"));
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
