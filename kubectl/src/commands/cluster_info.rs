//! `kubectl cluster-info`: where the control plane and its add-ons answer. Left out: `dump`.

use crate::cli::{Args, Command};
use crate::connection::Url;
use crate::context::Context;
use crate::error::Result;

/// The command.
pub fn cli() -> Command {
    Command::new("cluster-info", "Display cluster information").exec(exec)
}

fn exec(ctx: &mut Context, _: &Args) -> Result<()> {
    let connection = ctx.connection()?;
    let url = Url::new("/api/v1/namespaces/kube-system/services").query("labelSelector", "kubernetes.io/cluster-service=true");
    let services = connection.get(&url)?;
    let server = connection.server.trim_end_matches('/').to_owned();
    let (green, yellow, plain) = ("\u{1b}[0;32m", "\u{1b}[0;33m", "\u{1b}[0m");
    let mut text = format!("{green}Kubernetes control plane{plain} is running at {yellow}{server}{plain}\n");
    for s in services["items"].as_array().into_iter().flatten() {
        let name = s["metadata"]["name"].as_str().unwrap_or("");
        let title = s["metadata"]["labels"]["kubernetes.io/name"].as_str().unwrap_or(name);
        let port = &s["spec"]["ports"][0];
        let port = match port["name"].as_str() {
            Some(n) if !n.is_empty() => format!(":{n}"),
            _ => String::new(),
        };
        let scheme = if s["spec"]["ports"][0]["port"] == 443 { "https:" } else { "" };
        let link = format!("{server}/api/v1/namespaces/kube-system/services/{scheme}{name}{port}/proxy");
        text += &format!("{green}{title}{plain} is running at {yellow}{link}{plain}\n");
    }
    text += "\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.\n";
    // Colours are for terminals; upstream decides by stdout.
    if !ctx.stdout_is_terminal {
        for code in [green, yellow, plain] {
            text = text.replace(code, "");
        }
    }
    ctx.print(&text);
    Ok(())
}
