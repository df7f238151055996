//! How long the points of a cycle and the plugins there take, for the metrics. As upstream, every cycle's points are measured and single plugins in one
//! cycle of ten: asking the clock around every call would cost more than most calls do.

use crate::cycle::{Filters, Outcome};
use crate::framework::{Code, PostFilter, PreFilter, Rejection};
use crate::metrics::Metrics;
use crate::plugins::Called;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// One cycle in so many has its plugins measured.
pub const ONE_IN: u32 = 10;

/// What an answer is called in the metrics.
pub trait Answer {
    /// `Success`, or upstream's name of why not.
    fn status(&self) -> &'static str;
}

impl Answer for () {
    fn status(&self) -> &'static str {
        "Success"
    }
}

impl Answer for Filters<'_> {
    fn status(&self) -> &'static str {
        "Success"
    }
}

impl Answer for PreFilter {
    fn status(&self) -> &'static str {
        if matches!(self, Self::Skip) { "Skip" } else { "Success" }
    }
}

/// Whether there is anything to do.
impl Answer for bool {
    fn status(&self) -> &'static str {
        if *self { "Success" } else { "Skip" }
    }
}

impl Answer for PostFilter {
    fn status(&self) -> &'static str {
        match self {
            Self::Nominate(_) => "Success",
            Self::Failed(_) => "Error",
            Self::Deallocate(..) | Self::Nothing(_) | Self::Hopeless(_) => "Unschedulable",
        }
    }
}

impl Answer for Outcome {
    fn status(&self) -> &'static str {
        if matches!(self, Self::Nominated(_)) { "Success" } else { "Unschedulable" }
    }
}

impl<T: Answer> Answer for Result<T, Rejection> {
    fn status(&self) -> &'static str {
        match self {
            Ok(answer) => answer.status(),
            Err(Rejection { code: Code::Unschedulable, .. }) => "Unschedulable",
            Err(Rejection { code: Code::Unresolvable, .. }) => "UnschedulableAndUnresolvable",
        }
    }
}

impl Answer for anyhow::Result<()> {
    fn status(&self) -> &'static str {
        if self.is_ok() { "Success" } else { "Error" }
    }
}

struct Cycle {
    metrics: Arc<Metrics>,
    profile: String,
    each_plugin: bool,
}

/// Measures one cycle; the default measures nothing.
#[derive(Clone, Default)]
pub struct Stopwatch(Option<Arc<Cycle>>);

impl Stopwatch {
    /// For a cycle of this profile; whether each plugin is measured, too.
    pub fn new(metrics: Arc<Metrics>, profile: &str, each_plugin: bool) -> Self {
        Self(Some(Arc::new(Cycle { metrics, profile: profile.to_owned(), each_plugin })))
    }

    /// Whether each plugin is measured.
    pub fn measures_plugins(&self) -> bool {
        self.0.as_ref().is_some_and(|cycle| cycle.each_plugin)
    }

    /// Measures all that is done at a point.
    pub fn point<T: Answer>(&self, point: &str, run: impl FnOnce() -> T) -> T {
        let begun = self.begin();
        let answer = run();
        self.end(point, begun, &answer);
        answer
    }

    /// When a point began that ends with [`Stopwatch::end`].
    pub fn begin(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// Measures a point from its beginning until now.
    pub fn end(&self, point: &str, begun: Option<Instant>, answer: &impl Answer) {
        if let (Some(cycle), Some(begun)) = (&self.0, begun) {
            cycle.metrics.points.observe(&[point, answer.status(), &cycle.profile], begun.elapsed().as_secs_f64());
        }
    }

    /// Counts a call of a plugin and measures it, if this is a cycle for that.
    pub fn plugin<T: Answer>(&self, called: &Called, point: &str, run: impl FnOnce() -> T) -> T {
        self.calls(called, point, 1, run)
    }

    /// The same of so many calls, of which the mean is measured.
    pub fn calls<T: Answer>(&self, called: &Called, point: &str, calls: u32, run: impl FnOnce() -> T) -> T {
        let Some(cycle) = &self.0 else { return run() };
        called.evaluations.fetch_add(u64::from(calls), Ordering::Relaxed);
        if !cycle.each_plugin {
            return run();
        }
        let begun = Instant::now();
        let answer = run();
        let seconds = begun.elapsed().as_secs_f64() / f64::from(calls.max(1));
        cycle.metrics.plugins.observe(&[called.plugin.name(), point, answer.status()], seconds);
        answer
    }

    /// Measures a plugin that was called at this time, if this is a cycle for that.
    pub fn end_plugin(&self, plugin: &str, point: &str, begun: Option<Instant>, answer: &impl Answer) {
        if let (Some(cycle), Some(begun)) = (self.0.as_ref().filter(|cycle| cycle.each_plugin), begun) {
            cycle.metrics.plugins.observe(&[plugin, point, answer.status()], begun.elapsed().as_secs_f64());
        }
    }
}
