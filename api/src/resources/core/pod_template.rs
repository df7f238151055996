//! PodTemplate: a pod to be copied, as an object of its own.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource};
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::{validation, warnings};
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Containers", "string"), shown("Images", "string"), shown("Pod Labels", "string")];

impl Kind for PodTemplate {
    fn set_defaults(&mut self) {
        template(self.template.get_or_insert_default());
    }

    fn validate(&self, errors: &mut ErrorList) {
        if let Some(template) = &self.template {
            validation::template(errors, &Path::new("template"), template);
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        self.template.iter().flat_map(|t| warnings::template(&Path::new("template"), t)).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let _ = context;
        let template = self.template.clone().unwrap_or_default();
        let (names, images) = printer::containers(&template.spec.unwrap_or_default().containers);
        let labels = template.metadata.and_then(|m| m.labels);
        vec![printer::name(&self.metadata), json!(names), json!(images), json!(printer::labels(labels.as_ref()))]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { generation: true, columns: COLUMNS.into(), ..Resource::of::<PodTemplate>() }
}
