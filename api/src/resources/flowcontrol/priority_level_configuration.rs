//! PriorityLevelConfiguration: how many requests of a level are served at once, and which wait.

use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource};
use crate::resources::defaulting::{absent, number};
use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("PriorityLevelConfiguration")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Type", "string"),
    shown("NominalConcurrencyShares", "string"),
    shown("Queues", "string"),
    shown("HandSize", "string"),
    shown("QueueLengthLimit", "string"),
    AGE,
];

impl Kind for PriorityLevelConfiguration {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            absent(&mut exempt.nominal_concurrency_shares, 0);
            absent(&mut exempt.lendable_percent, 0);
        }
        if let Some(limited) = &mut spec.limited {
            absent(&mut limited.nominal_concurrency_shares, 30);
            absent(&mut limited.lendable_percent, 0);
            if let Some(queuing) = limited.limit_response.as_mut().and_then(|r| r.queuing.as_mut()) {
                number(&mut queuing.hand_size, 8);
                number(&mut queuing.queues, 64);
                number(&mut queuing.queue_length_limit, 50);
            }
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let spec = self.spec.clone().unwrap_or_default();
        let none = || json!(printer::NONE);
        let (mut shares, mut queues, mut hand, mut length) = (none(), none(), none(), none());
        if let Some(limited) = spec.limited {
            shares = json!(limited.nominal_concurrency_shares);
            if let Some(queuing) = limited.limit_response.and_then(|r| r.queuing) {
                (queues, hand, length) = (json!(queuing.queues), json!(queuing.hand_size), json!(queuing.queue_length_limit));
            }
        } else if let Some(exempt) = spec.exempt {
            shares = json!(exempt.nominal_concurrency_shares);
        }
        vec![printer::name(&self.metadata), json!(spec.type_), shares, queues, hand, length, printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<PriorityLevelConfiguration>()
    }
}
