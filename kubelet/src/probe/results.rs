//! What the probes of one pod have found so far.

use std::collections::HashMap;

/// The three probes a container may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the API's.
pub enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    /// As `Unhealthy` events begin.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Startup => "Startup",
        }
    }
}

/// A probe's standing, thresholds counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not enough is known yet.
    Unknown,
    /// It is well.
    Success,
    /// It is not.
    Failure,
}

/// The outcomes by container and probe. Each holds for one instance: a restarted container starts unknown.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    found: HashMap<(String, ProbeKind), (String, Outcome)>,
}

impl Outcomes {
    /// The outcome for the instance `id` of a container, if that probe has said anything about it.
    pub fn of(&self, container: &str, kind: ProbeKind, id: &str) -> Option<Outcome> {
        let (known, outcome) = self.found.get(&(container.to_owned(), kind))?;
        (known == id).then_some(*outcome)
    }

    /// Notes an outcome; answers whether anything changed.
    pub fn set(&mut self, container: &str, kind: ProbeKind, id: &str, outcome: Outcome) -> bool {
        let new = (id.to_owned(), outcome);
        self.found.insert((container.to_owned(), kind), new.clone()).as_ref() != Some(&new)
    }
}
