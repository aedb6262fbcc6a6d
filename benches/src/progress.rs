//! Telling the user how far a phase is: a bar on a terminal, now and then a line elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Whether to show anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Show it.
    Normal,
    /// Nothing.
    Quiet,
}

/// How far a phase is meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// So many operations.
    Operations(u64),
    /// So long.
    Duration(Duration),
    /// So many replicas of regions.
    Replicas(u64),
}

/// The progress of one phase, on standard error.
pub struct Progress {
    phase: String,
    goal: Goal,
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { next: Duration },
}

impl Progress {
    /// A phase of this name that has not begun.
    pub fn new(phase: impl Into<String>, goal: Goal, verbosity: Verbosity) -> Self {
        let target = ProgressDrawTarget::stderr();
        let shown = match verbosity {
            Verbosity::Quiet => Shown::Nothing,
            Verbosity::Normal if target.is_hidden() => Shown::Lines {
                next: LINE_INTERVAL,
            },
            Verbosity::Normal => {
                Shown::Bar(ProgressBar::with_draw_target(Some(length(goal)), target))
            }
        };
        let phase = phase.into();
        if let Shown::Bar(bar) = &shown {
            let style = ProgressStyle::with_template("{prefix:>12} [{bar:40}] {percent:>3}% {msg}");
            bar.set_style(style.expect("a valid template").progress_chars("=> "));
            bar.set_prefix(phase.clone());
        }
        Self { phase, goal, shown }
    }

    /// The state after `elapsed`; `per_s` is the throughput of the last interval.
    pub fn update(&mut self, elapsed: Duration, operations: u64, failed: u64, per_s: f64) {
        let line = status(self.goal, elapsed, operations, failed, per_s);
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_position(match self.goal {
                    Goal::Operations(_) | Goal::Replicas(_) => operations,
                    Goal::Duration(_) => u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                });
                bar.set_message(line);
            }
            Shown::Lines { next } => {
                if elapsed >= *next {
                    *next = elapsed + LINE_INTERVAL;
                    eprintln!("{}: {line}", self.phase);
                }
            }
        }
    }

    /// Leaves one last line.
    pub fn finish(self, elapsed: Duration, operations: u64, failed: u64) {
        let per_s = operations as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
        let line = status(self.goal, elapsed, operations, failed, per_s);
        match self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.abandon_with_message(line),
            Shown::Lines { .. } => eprintln!("{}: {line}, done", self.phase),
        }
    }
}

fn length(goal: Goal) -> u64 {
    match goal {
        Goal::Operations(all) | Goal::Replicas(all) => all,
        Goal::Duration(duration) => u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    }
}

fn status(goal: Goal, elapsed: Duration, done: u64, failed: u64, per_s: f64) -> String {
    let seconds = elapsed.as_secs_f64();
    let of = match goal {
        Goal::Replicas(all) => return format!("{done} of {all} after {seconds:.1} s"),
        Goal::Operations(all) => format!("{done} of {all} operations in {seconds:.1} s"),
        Goal::Duration(all) => {
            let all = all.as_secs_f64();
            format!("{done} operations in {seconds:.1} of {all:.1} s")
        }
    };
    let errors = if failed == 0 {
        String::new()
    } else {
        format!(", {failed} failed")
    };
    format!("{of}, {per_s:.0}/s{errors}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_what_failed() {
        let ten = Duration::from_secs(10);
        let twenty = Goal::Duration(Duration::from_secs(20));
        for (goal, failed, expected) in [
            (
                Goal::Operations(100),
                0,
                "50 of 100 operations in 10.0 s, 5/s",
            ),
            (
                Goal::Operations(100),
                2,
                "50 of 100 operations in 10.0 s, 5/s, 2 failed",
            ),
            (twenty, 0, "50 operations in 10.0 of 20.0 s, 5/s"),
        ] {
            assert_eq!(status(goal, ten, 50, failed, 5.0), expected);
        }
    }
}
