//! Validating webhooks, all at once; the first refusal counts (upstream: `plugin/webhook/validating/dispatcher.go`).

use super::hooks::Hooks;
use super::{Calls, Wire, failed};
use crate::admission::{Admission, Request, Sources};
use api::{Object, status::Result};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

/// The plugin.
pub struct Validating(Calls);

impl Validating {
    /// Follows the configurations.
    pub fn new(sources: &Sources) -> Self {
        Validating(Calls::new(sources, Hooks::validating(&*sources.objects)))
    }

    async fn run(&self, request: &Request<'_>, object: Option<&dyn Object>) -> Result<()> {
        if self.0.hooks.all().is_empty() {
            return Ok(());
        }
        let wire = Wire::new(&self.0.registry, request, object)?;
        let wanted = self.0.wanted(request, &wire)?;
        let calls = wanted.iter().enumerate().map(|(index, invocation)| {
            let wire = &wire;
            async move {
                let Err(failure) = self.0.call(invocation, request, wire).await else { return Ok(()) };
                failed(&invocation.hook, failure)?;
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                request.context.notes.annotate(key, invocation.hook.name.as_str());
                Ok(())
            }
        });
        let mut answers: FuturesUnordered<_> = calls.collect();
        // All are heard, so that what they note is complete; the first refusal is the answer.
        let mut refusal = Ok(());
        while let Some(answer) = answers.next().await {
            refusal = refusal.and(answer);
        }
        refusal
    }
}

impl Admission for Validating {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.run(request, object))
    }
}
