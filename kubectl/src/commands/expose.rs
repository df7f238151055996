//! `kubectl expose`: a Service for what runs.

use super::{create, dry_run_flag, field_manager_flag, file_flags, scale};
use crate::cli::{Args, Command, Flag};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::selection::Target;
use crate::{apply, generate, printers};
use serde_json::{Map, Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("expose", "Take a replication controller, service, deployment or pod and expose it as a new Kubernetes service")
        .usage("(-f FILENAME | TYPE NAME) [--port=port] [--protocol=TCP|UDP|SCTP] [--target-port=number-or-name] [--name=name] [--external-ip=external-ip-of-service] [--type=type]")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to expose."))
        .flags([
            Flag::string("cluster-ip", "", "The cluster IP; None for a headless service."),
            dry_run_flag(),
            Flag::string("external-ip", "", "An address outside the cluster to answer on."),
            field_manager_flag("kubectl-expose"),
            Flag::string("labels", "", "Labels for the service.").short('l'),
            Flag::string("load-balancer-ip", "", "The load balancer's address."),
            Flag::string("name", "", "The service's name."),
            Flag::string("override-type", "merge", "How --overrides apply: json, merge or strategic."),
            Flag::string("overrides", "", "JSON that changes the service."),
            Flag::string("port", "", "The service's port."),
            Flag::string("protocol", "", "TCP, UDP or SCTP."),
            Flag::switch("save-config", "Keep the object in an annotation, for a later apply."),
            Flag::string("selector", "", "The service's selector."),
            Flag::string("session-affinity", "", "None or ClientIP."),
            Flag::string("target-port", "", "The pods' port, by number or name."),
            Flag::string("type", "", "ClusterIP, NodePort, LoadBalancer or ExternalName."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let dry_run = ctx.dry_run(args)?;
    // --selector is the new service's here, not a choice among objects.
    let mut plain = args.clone();
    plain.forget("selector");
    let (targets, mut errors) = scale::targets(ctx, &plain)?;
    for target in targets {
        let outcome = service(args, &target)
            .and_then(|object| if dry_run == DryRun::Client { Ok(object) } else { create::post(ctx, args, &object, dry_run) });
        match outcome {
            Ok(object) => {
                let text = printers::for_change(ctx, args, &format!("exposed{}", dry_run.suffix()), Order::Typed)?.print(&object)?;
                ctx.print(&text);
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)
}

/// The containers' ports, with their protocols.
fn ports_of(object: &Value) -> Vec<(Value, Value)> {
    let spec = if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    if object["kind"] == "Service" {
        return object["spec"]["ports"].as_array().into_iter().flatten().map(|p| (p["port"].clone(), p["protocol"].clone())).collect();
    }
    let containers = spec["containers"].as_array().into_iter().flatten();
    containers
        .flat_map(|c| c["ports"].as_array().cloned().unwrap_or_default())
        .map(|p| (p["containerPort"].clone(), p["protocol"].clone()))
        .collect()
}

fn selector_of(target: &Target) -> Result<Map<String, Value>> {
    let object = &target.object;
    let (labels, missing) = match target.resource.kind.as_str() {
        "Pod" => (&object["metadata"]["labels"], "the pod has no labels and cannot be exposed"),
        "Service" | "ReplicationController" => (&object["spec"]["selector"], "the service has no pod selector set"),
        "Deployment" | "ReplicaSet" => {
            if object["spec"]["selector"]["matchExpressions"].as_array().is_some_and(|m| !m.is_empty()) {
                return Err(message("couldn't convert expressions - \"matchExpressions\" to map-based selector format"));
            }
            (
                &object["spec"]["selector"]["matchLabels"],
                "couldn't retrieve selectors via --selector flag or introspection: invalid deployment: no selectors, therefore cannot be exposed",
            )
        }
        kind => return Err(message(format!("cannot expose a {kind}"))),
    };
    labels.as_object().filter(|l| !l.is_empty()).cloned().ok_or_else(|| message(missing))
}

fn service(args: &Args, target: &Target) -> Result<Value> {
    let selector = match args.text("selector") {
        Some(text) => generate::pairs(&text.split(',').map(str::to_owned).collect::<Vec<_>>(), "selector")?,
        None => selector_of(target)?,
    };
    let headless = args.str("cluster-ip") == "None";
    let found = ports_of(&target.object);
    let number = |t: &str| t.parse::<i64>().map_err(|_| message(format!("strconv.Atoi: parsing {t:?}: invalid syntax")));
    let mut ports: Vec<Value> = Vec::new();
    let wanted: Vec<(Value, Value)> = match args.text("port") {
        Some(text) => {
            let mut list = Vec::new();
            for p in text.split(',') {
                let p = json!(number(p)?);
                let protocol = found.iter().find(|(f, _)| *f == p).map_or(Value::Null, |(_, protocol)| protocol.clone());
                list.push((p, protocol));
            }
            list
        }
        None => found,
    };
    if wanted.is_empty() && !headless {
        return Err(message("couldn't find port via --port flag or introspection\nSee 'kubectl expose -h' for help and examples"));
    }
    for (i, (port, protocol)) in wanted.iter().enumerate() {
        let protocol = args.text("protocol").map(str::to_owned).or(protocol.as_str().map(str::to_owned)).unwrap_or_else(|| "TCP".into());
        let to = args.text("target-port").map_or_else(|| port.clone(), |t| t.parse::<i64>().map_or_else(|_| json!(t), |n| json!(n)));
        let mut p = json!({"port": port, "protocol": protocol, "targetPort": to});
        if wanted.len() > 1 {
            p["name"] = json!(format!("port-{}", i + 1));
        }
        ports.push(p);
    }
    let mut meta = generate::metadata(args.text("name").unwrap_or(&target.name));
    let labels = match args.text("labels") {
        Some(text) => Some(generate::pairs(&text.split(',').map(str::to_owned).collect::<Vec<_>>(), "label")?),
        None => target.object["metadata"]["labels"].as_object().cloned(),
    };
    if let Some(labels) = labels.filter(|l| !l.is_empty()) {
        meta["labels"] = Value::Object(labels);
    }
    meta["namespace"] = json!(target.namespace);
    let mut spec = json!({ "selector": selector });
    if !ports.is_empty() {
        spec["ports"] = json!(ports);
    }
    for (flag, field) in
        [("type", "type"), ("cluster-ip", "clusterIP"), ("session-affinity", "sessionAffinity"), ("load-balancer-ip", "loadBalancerIP")]
    {
        if let Some(value) = args.text(flag) {
            spec[field] = json!(value);
        }
    }
    if let Some(ip) = args.text("external-ip") {
        spec["externalIPs"] = json!([ip]);
    }
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec, "status": {"loadBalancer": {}}});
    if let Some(text) = args.text("overrides") {
        json_patch::merge(&mut object, &crate::manifest::parse_document(text).map_err(message)?);
    }
    if args.bool("save-config") {
        apply::annotate(&mut object);
    }
    Ok(object)
}
