//! Mutating webhooks, one after the other (upstream: `plugin/webhook/mutating/dispatcher.go`).

use super::hooks::Hooks;
use super::{Calls, Wire, failed, patched, review};
use crate::admission::{Admission, Request, Sources};
use api::{Object, StatusError, status::Result};
use futures::future::BoxFuture;

/// What the rounds of admission know the plugin by.
const PLUGIN: &str = "MutatingAdmissionWebhook";

/// The plugin.
pub struct Mutating(Calls);

impl Mutating {
    /// Follows the configurations.
    pub fn new(sources: &Sources) -> Self {
        Mutating(Calls::new(sources, Hooks::mutating(&*sources.objects)))
    }

    async fn run(&self, request: &Request<'_>, mut object: Option<&mut dyn Object>) -> Result<()> {
        if self.0.hooks.all().is_empty() {
            return Ok(());
        }
        let mut wire = Wire::new(&self.0.registry, request, object.as_deref())?;
        let wanted = self.0.wanted(request, &wire)?;
        let rounds = &request.context.rounds;
        rounds.enter(PLUGIN, wire.object());
        let round = usize::from(rounds.is_second());
        for (index, invocation) in wanted.iter().enumerate() {
            let hook = &invocation.hook;
            if !rounds.due(PLUGIN, &hook.id) {
                continue;
            }
            let mut changed = false;
            match self.0.call(invocation, request, &wire).await {
                Err(failure) => {
                    failed(hook, failure)?;
                    let key = format!("failed-open.mutating.webhook.admission.k8s.io/round_{round}_index_{index}");
                    request.context.notes.annotate(key, hook.name.as_str());
                    continue;
                }
                Ok(verdict) if !verdict.patch.is_empty() => {
                    if let Some(object) = object.as_deref_mut() {
                        let before = wire.object().clone();
                        let [seen, _] = wire.in_version(&invocation.endpoint)?;
                        let made = patched(&seen, &verdict.patch).map_err(StatusError::internal)?;
                        wire.take(&invocation.endpoint, made, object)?;
                        changed = *wire.object() != before;
                    } else {
                        let why = format!(
                            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                            hook.name
                        );
                        return Err(StatusError::internal(why));
                    }
                }
                Ok(_) => {}
            }
            let key = format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}");
            request.context.notes.annotate(key, review::mutation_annotation(&hook.configuration, &hook.name, changed));
            rounds.called(PLUGIN, &hook.id, changed, hook.reinvoked);
        }
        rounds.leave(PLUGIN, wire.object());
        Ok(())
    }
}

impl Admission for Mutating {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.run(request, object))
    }
}
