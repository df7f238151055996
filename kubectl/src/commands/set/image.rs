//! `kubectl set image`: the images of containers, by name or `*` for all.

use super::{Report, containers, each, flags, pod_spec, split};
use crate::cli::{Args, Command};
use crate::context::Context;
use crate::error::{Error, Result, message};
use serde_json::json;

pub(super) fn cli() -> Command {
    Command::new("image", "Update the image of a pod template")
        .usage("(-f FILENAME | TYPE NAME) CONTAINER_NAME_1=CONTAINER_IMAGE_1 ... CONTAINER_NAME_N=CONTAINER_IMAGE_N")
        .flags(flags())
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let (resources, pairs) = split(&args.positional, "image")?;
    let images: Vec<(&str, &str)> = pairs.iter().filter_map(|p| p.split_once('=')).collect();
    let mut wrong = Vec::new();
    if resources.is_empty() && args.list("filename").is_empty() && args.text("kustomize").is_none() {
        wrong.push(message("one or more resources must be specified as <resource> <name> or <resource>/<name>"));
    }
    if images.is_empty() {
        wrong.push(message("at least one image update is required"));
    } else if images.len() > 1 && images.iter().any(|(name, _)| *name == "*") {
        wrong.push(message("all containers are already specified by *, but saw more than one container_name=container_image pairs"));
    }
    Error::collect(wrong)?;
    each(ctx, args, &resources, &Report { done: "image updated", silent_when_same: true }, |_, target, object| {
        let spec = pod_spec(target, object)?;
        let mut errors = Vec::new();
        for (name, image) in &images {
            let mut found = false;
            for container in containers(spec, if *name == "*" { "*" } else { name }, true) {
                container["image"] = json!(image);
                found = true;
            }
            if !found {
                errors.push(message(format!("error: unable to find container named {name:?}")));
            }
        }
        Error::collect(errors)
    })
}
