//! `kubectl version`.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::encoding::json::{self, Order};
use crate::encoding::yaml;
use crate::error::{Result, message};
use serde_json::{Value, json};

/// The release of Kubernetes whose API this client speaks.
pub const GIT_VERSION: &str = "v1.36.2";
/// Upstream prints the version of the kustomize library here; ours has none inside.
const KUSTOMIZE_VERSION: &str = "v0.0.0";
/// How many minor releases a server may be away from the client before upstream warns.
const SUPPORTED_SKEW: i64 = 1;

/// The command.
pub fn cli() -> Command {
    Command::new("version", "Print the client and server version information")
        .flags([
            Flag::switch("client", "Only the client's version; needs no server."),
            Flag::string("output", "", "json or yaml.").short('o'),
        ])
        .exec(exec)
}

fn client_version() -> Value {
    let (major, minor) = GIT_VERSION.trim_start_matches('v').split_once('.').unwrap_or(("1", "0"));
    json!({
        "major": major, "minor": minor.split('.').next().unwrap_or("0"), "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

/// The architecture by Go's name.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(message(format!("extra arguments: [{}]", args.positional.join(" "))));
    }
    let output = args.str("output");
    if !["", "json", "yaml"].contains(&output) {
        return Err(message("--output must be 'yaml' or 'json'"));
    }
    let mut versions = json!({"clientVersion": client_version(), "kustomizeVersion": KUSTOMIZE_VERSION});
    let mut failure = None;
    if !args.bool("client") {
        match ctx.connection()?.get(&Url::new("/version").query("timeout", "32s")) {
            Ok(v) => versions["serverVersion"] = v,
            Err(e) => failure = Some(e),
        }
    }
    let text = match output {
        "json" => format!("{}\n", json::to_string_indented(&versions, "  ", Order::Typed)),
        "yaml" => yaml::to_string(&versions),
        _ => {
            let mut text = format!("Client Version: {GIT_VERSION}\nKustomize Version: {KUSTOMIZE_VERSION}\n");
            if let Some(server) = versions["serverVersion"]["gitVersion"].as_str() {
                text += &format!("Server Version: {server}\n");
            }
            text
        }
    };
    ctx.print(&text);
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Some(server) = versions["serverVersion"]["minor"].as_str() {
        let number = |s: &str| s.trim_end_matches('+').parse::<i64>().ok();
        let ours = number(versions["clientVersion"]["minor"].as_str().unwrap_or(""));
        if let (Some(s), Some(c)) = (number(server), ours)
            && (s - c).abs() > SUPPORTED_SKEW
        {
            ctx.complain(&format!(
                "WARNING: version difference between client (1.{c}) and server (1.{s}) exceeds the supported minor version skew of +/-{SUPPORTED_SKEW}\n"
            ));
        }
    }
    Ok(())
}
