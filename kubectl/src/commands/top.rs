//! `kubectl top`: what nodes and pods use, as `metrics.k8s.io` says.
//!
//! Left out: `--swap`, which is alpha upstream, and `--use-protocol-buffers`, which is taken and without effect.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::encoding::tabwriter::{TABLE, align};
use crate::error::{Result, message};
use api::quantity::Quantity;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::HashMap;

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";
const MEBIBYTE: i64 = 1 << 20;

/// The command.
pub fn cli() -> Command {
    Command::new("top", "Display resource (CPU/memory) usage").command(node_cli()).command(pod_cli())
}

fn flags() -> Vec<Flag> {
    vec![
        Flag::switch("no-headers", "Without the header line."),
        Flag::string("selector", "", "Only those whose labels match.").short('l'),
        Flag::string("sort-by", "", "cpu or memory: the largest first."),
        Flag::switch_on("use-protocol-buffers", "Accepted and without effect.").hidden(),
    ]
}

fn node_cli() -> Command {
    Command::new("node", "Display resource (CPU/memory) usage of nodes")
        .aliases(&["nodes", "no"])
        .usage(ARGUMENTS)
        .flags(flags())
        .flags([Flag::switch("show-capacity", "Percentages of the capacity instead of what pods may use.")])
        .exec(node)
}

fn pod_cli() -> Command {
    Command::new("pod", "Display resource (CPU/memory) usage of pods")
        .aliases(&["pods", "po"])
        .usage(ARGUMENTS)
        .flags(flags())
        .flags([
            Flag::switch("all-namespaces", "From all namespaces.").short('A'),
            Flag::switch("containers", "Each container of a pod for itself."),
            Flag::string("field-selector", "", "Only those whose fields match."),
            Flag::switch("sum", "The sum in the end."),
        ])
        .exec(pod)
        .in_namespace()
}

/// CPU in thousandths of a core, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Amounts {
    cpu: i64,
    memory: i64,
}

impl Amounts {
    fn of(usage: &Value) -> Self {
        let amount = |name: &str| usage[name].as_str().and_then(|text| text.parse::<Quantity>().ok()).unwrap_or(Quantity::ZERO);
        Amounts { cpu: amount("cpu").milli_value(), memory: amount("memory").value() }
    }

    fn plus(self, other: Self) -> Self {
        Amounts { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    /// As cells, `250m` and `64Mi`; every cell ends with a tab, the last one too.
    fn cells(self) -> String {
        format!("{}m\t{}Mi\t", self.cpu, self.memory / MEBIBYTE)
    }
}

/// What is sorted by.
type Key = fn(&Amounts) -> i64;

/// A pod with its lines, in the order of namespaces and names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    namespace: String,
    name: String,
    lines: Vec<String>,
}

/// What of it is sorted by, if it is, and that it is one of the two.
fn sort_key(args: &Args) -> Result<Option<Key>> {
    match args.str("sort-by") {
        "" => Ok(None),
        "cpu" => Ok(Some(|amounts| amounts.cpu)),
        "memory" => Ok(Some(|amounts| amounts.memory)),
        _ => Err(message("--sort-by accepts only cpu or memory")),
    }
}

const ARGUMENTS: &str = "[NAME | -l label]";

/// The name on the line, which goes with no selector. What the selector is called in the refusal is the command's.
fn name<'a>(args: &'a Args, command: &str, selector: &str) -> Result<Option<&'a str>> {
    match args.positional.as_slice() {
        [] => Ok(None),
        [_] if args.text("selector").is_some() => Err(message(format!("only one of NAME or {selector} can be provided"))),
        [name] => Ok(Some(name)),
        _ => Err(args.usage(format!("{command} {ARGUMENTS}"))),
    }
}

/// The items under a path: one by its name, or those that the selectors pick.
fn items(ctx: &mut Context, path: &str, name: Option<&str>, args: &Args) -> Result<Vec<Value>> {
    let connection = ctx.connection()?;
    if let Some(name) = name {
        return Ok(vec![connection.get(&Url::new(format!("{path}/{name}")))?]);
    }
    let mut url = Url::new(path).query("labelSelector", args.str("selector"));
    if args.knows("field-selector") {
        url = url.query("fieldSelector", args.str("field-selector"));
    }
    Ok(connection.get(&url)?["items"].as_array().cloned().unwrap_or_default())
}

fn metrics_are_served(ctx: &mut Context) -> Result<()> {
    let served = ctx.mapper()?.versions()?.iter().any(|version| version == "metrics.k8s.io/v1beta1");
    if served { Ok(()) } else { Err(message("Metrics API not available")) }
}

fn own_name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn node(ctx: &mut Context, args: &Args) -> Result<()> {
    let key = sort_key(args)?;
    let name = name(args, "node", "--selector")?;
    metrics_are_served(ctx)?;
    let metrics = items(ctx, &format!("{GROUP}/nodes"), name, args)?;
    if metrics.is_empty() {
        return Err(message("metrics not available yet"));
    }
    let nodes = items(ctx, "/api/v1/nodes", name, args)?;
    let of = if args.bool("show-capacity") { "capacity" } else { "allocatable" };
    let mut available: HashMap<String, Amounts> = nodes.iter().map(|node| (own_name(node), Amounts::of(&node["status"][of]))).collect();
    let mut rows: Vec<(String, Amounts)> = metrics.iter().map(|node| (own_name(node), Amounts::of(&node["usage"]))).collect();
    sort(&mut rows, key);
    let mut text =
        if args.bool("no-headers") { String::new() } else { "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\t\n".to_owned() };
    for (name, used) in rows {
        let room = available.remove(&name).unwrap_or_default();
        let percent =
            |used: i64, room: i64| if room > 0 { format!("{}%", (used as f64 / room as f64 * 100.0) as i64) } else { String::new() };
        let (cpu, memory) = (percent(used.cpu, room.cpu), percent(used.memory, room.memory));
        text += &format!("{name}\t{}m\t{cpu}\t{}Mi\t{memory}\t\n", used.cpu, used.memory / MEBIBYTE);
    }
    let mut silent: Vec<String> = available.into_keys().collect();
    silent.sort();
    silent.iter().for_each(|name| text += &format!("{name}\t<unknown>\t<unknown>\t<unknown>\t<unknown>\t\n"));
    ctx.print(&align(TABLE, &text));
    Ok(())
}

fn sort<T>(rows: &mut [(T, Amounts)], key: Option<Key>)
where
    T: Ord + Clone,
{
    rows.sort_by_key(|(name, amounts)| (key.map(|key| Reverse(key(amounts))), name.clone()));
}

fn pod(ctx: &mut Context, args: &Args) -> Result<()> {
    let key = sort_key(args)?;
    let name = name(args, "pod", "selector")?;
    metrics_are_served(ctx)?;
    let all = args.bool("all-namespaces") && name.is_none();
    let namespace = ctx.namespace()?;
    let path = if all { format!("{GROUP}/pods") } else { format!("{GROUP}/namespaces/{namespace}/pods") };
    let found = items(ctx, &path, name, args)?;
    if found.is_empty() {
        let text = if all { "No resources found\n".to_owned() } else { format!("No resources found in {namespace} namespace.\n") };
        ctx.complain(&text);
        return Ok(());
    }
    let text = table(&found, all, args.bool("containers"), key, args.bool("no-headers"), args.bool("sum"));
    ctx.print(&align(TABLE, &text));
    Ok(())
}

/// Lines of pods, or of their containers.
fn table(pods: &[Value], all: bool, containers: bool, key: Option<Key>, no_headers: bool, sum: bool) -> String {
    let part = |value: &Value, field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    let each = |pod: &Value| -> Vec<(String, Amounts)> {
        let list = pod["containers"].as_array().into_iter().flatten();
        list.map(|container| (container["name"].as_str().unwrap_or_default().to_owned(), Amounts::of(&container["usage"]))).collect()
    };
    let total = |list: &[(String, Amounts)]| list.iter().fold(Amounts::default(), |sum, (_, amounts)| sum.plus(*amounts));
    let mut rows: Vec<(Row, Amounts)> = Vec::new();
    let mut whole = Amounts::default();
    for pod in pods {
        let mut list = each(pod);
        let used = total(&list);
        whole = whole.plus(used);
        sort(&mut list, key);
        let namespace = if all { format!("{}\t", part(pod, "namespace")) } else { String::new() };
        let name = part(pod, "name");
        let lines = match containers {
            true => list.iter().map(|(container, used)| format!("{namespace}{name}\t{container}\t{}\n", used.cells())).collect(),
            false => vec![format!("{namespace}{name}\t{}\n", used.cells())],
        };
        rows.push((Row { namespace: part(pod, "namespace"), name, lines }, used));
    }
    sort(&mut rows, key);
    let mut text = String::new();
    if !no_headers {
        text += if all { "NAMESPACE\t" } else { "" };
        text += if containers { "POD\t" } else { "" };
        text += "NAME\tCPU(cores)\tMEMORY(bytes)\t\n";
    }
    rows.iter().for_each(|(row, _)| text += &row.lines.concat());
    if sum {
        let before = "\t".repeat(usize::from(all) + usize::from(containers) + 1);
        text += &format!("{before}________\t________\t\n{before}{}\n", whole.cells());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_by_name_or_by_use() {
        let container = |name: &str, cpu: &str, memory: &str| json!({"name": name, "usage": {"cpu": cpu, "memory": memory}});
        let pod = |name: &str, containers: Value| json!({"metadata": {"namespace": "ns", "name": name}, "containers": containers});
        let pods = [
            pod("b", json!([container("x", "1500000n", "1Mi"), container("y", "20m", "3Mi")])),
            pod("a", json!([container("z", "1m", "5000Ki")])),
        ];
        let shown = |all, containers, key, sum| align(TABLE, &table(&pods, all, containers, key, false, sum));
        let by_cpu: Key = |amounts| amounts.cpu;
        assert_eq!(
            shown(false, false, None, false),
            "NAME   CPU(cores)   MEMORY(bytes)   \na      1m           4Mi             \nb      22m          4Mi             \n"
        );
        assert_eq!(
            shown(true, true, Some(by_cpu), false),
            "NAMESPACE   POD   NAME   CPU(cores)   MEMORY(bytes)   \nns          b     y      20m          3Mi             \nns          b     x      2m           1Mi             \nns          a     z      1m           4Mi             \n"
        );
        assert!(shown(false, false, None, true).ends_with("       ________     ________        \n       23m          8Mi             \n"));
    }
}
