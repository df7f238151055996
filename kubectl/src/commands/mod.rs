//! The table of commands. A command is one file with `cli()` and `exec()`, and one row here.

use crate::cli::{Args, Command, Flag};
use crate::error::{Result, message};

mod annotate;
mod api_resources;
mod api_versions;
mod apply;
mod attach;
mod auth;
mod autoscale;
mod certificate;
mod cluster_info;
mod config;
mod cordon;
mod cp;
mod create;
mod debug;
mod delete;
mod describe;
mod diff;
mod drain;
mod edit;
mod events;
mod exec;
mod explain;
mod expose;
mod get;
mod label;
mod logs;
mod options;
mod patch;
pub mod plugin;
mod port_forward;
mod proxy;
mod replace;
mod rollout;
mod run;
mod scale;
mod set;
mod taint;
mod timeline;
mod top;
mod version;
mod wait;
mod why;

const BEGINNER: &str = "Basic Commands (Beginner)";
const INTERMEDIATE: &str = "Basic Commands (Intermediate)";
const DEPLOY: &str = "Deploy Commands";
const CLUSTER: &str = "Cluster Management Commands";
const TROUBLESHOOTING: &str = "Troubleshooting and Debugging Commands";
const ADVANCED: &str = "Advanced Commands";
const SETTINGS: &str = "Settings Commands";
const OTHER: &str = "Other Commands";

/// Every command, in the order of the help text.
pub fn root() -> Command {
    let rows: Vec<(&'static str, Command)> = vec![
        (BEGINNER, create::cli()),
        (BEGINNER, expose::cli()),
        (BEGINNER, run::cli()),
        (BEGINNER, set::cli().in_namespace()),
        (INTERMEDIATE, explain::cli()),
        (INTERMEDIATE, get::cli().in_namespace()),
        (INTERMEDIATE, edit::cli().in_namespace()),
        (INTERMEDIATE, delete::cli().in_namespace()),
        (DEPLOY, rollout::cli().in_namespace()),
        (DEPLOY, scale::cli().in_namespace()),
        (DEPLOY, autoscale::cli()),
        (CLUSTER, certificate::cli()),
        (CLUSTER, cluster_info::cli()),
        (CLUSTER, top::cli()),
        (CLUSTER, cordon::cli()),
        (CLUSTER, cordon::uncordon_cli()),
        (CLUSTER, drain::cli()),
        (CLUSTER, taint::cli().in_namespace()),
        (TROUBLESHOOTING, describe::cli().in_namespace()),
        (TROUBLESHOOTING, logs::cli().in_namespace()),
        (TROUBLESHOOTING, attach::cli().in_namespace()),
        (TROUBLESHOOTING, exec::cli()),
        (TROUBLESHOOTING, port_forward::cli().in_namespace()),
        (TROUBLESHOOTING, proxy::cli()),
        (TROUBLESHOOTING, cp::cli()),
        (TROUBLESHOOTING, auth::cli()),
        (TROUBLESHOOTING, debug::cli()),
        (TROUBLESHOOTING, events::cli().in_namespace()),
        (TROUBLESHOOTING, why::cli().in_namespace()),
        (TROUBLESHOOTING, timeline::cli().in_namespace()),
        (ADVANCED, diff::cli()),
        (ADVANCED, apply::cli()),
        (ADVANCED, patch::cli().in_namespace()),
        (ADVANCED, replace::cli()),
        (ADVANCED, wait::cli()),
        (SETTINGS, label::cli().in_namespace()),
        (SETTINGS, annotate::cli().in_namespace()),
        (OTHER, api_resources::cli()),
        (OTHER, api_versions::cli()),
        (OTHER, config::cli()),
        (OTHER, options::cli()),
        (OTHER, plugin::cli()),
        (OTHER, version::cli()),
    ];
    let mut root = Command::new("kubectl", "kubectl controls the Kubernetes cluster manager").usage("[flags]");
    for (group, mut command) in rows {
        command.group = group;
        root.commands.push(command);
    }
    root
}

/// Flags of every command.
pub fn global_flags() -> Vec<Flag> {
    vec![
        Flag::string("as", "", "Act as this user."),
        Flag::array("as-group", "Act as a member of this group; may be repeated."),
        Flag::string("as-uid", "", "Act with this UID."),
        Flag::string("cache-dir", "", "Where what is cached is kept."),
        Flag::string("certificate-authority", "", "File with the certificate authority's certificate."),
        Flag::string("client-certificate", "", "File with a client certificate for TLS."),
        Flag::string("client-key", "", "File with a client key for TLS."),
        Flag::string("cluster", "", "The kubeconfig's cluster to use."),
        Flag::string("context", "", "The kubeconfig's context to use."),
        Flag::switch("disable-compression", "Do not ask for compressed answers."),
        Flag::switch("insecure-skip-tls-verify", "Do not check the server's certificate."),
        Flag::string("kubeconfig", "", "The kubeconfig file to use."),
        Flag::duration("log-flush-frequency", "5s", "Accepted and without effect: nothing is buffered.").hidden(),
        Flag::switch("match-server-version", "Require the server's version to be the client's."),
        Flag::string("namespace", "", "The namespace to work in.").short('n'),
        Flag::string("password", "", "Password for basic authentication."),
        Flag::string("profile", "none", "Accepted and without effect.").hidden(),
        Flag::string("profile-output", "profile.pprof", "Accepted and without effect.").hidden(),
        Flag::string("request-timeout", "0", "How long to wait for one answer; 0 means without limit."),
        Flag::string("server", "", "Address and port of the API server.").short('s'),
        Flag::string("tls-server-name", "", "The name to expect in the server's certificate."),
        Flag::string("token", "", "Bearer token for the API server."),
        Flag::string("user", "", "The kubeconfig's user to use."),
        Flag::string("username", "", "User name for basic authentication."),
        Flag::int("v", "0", "Log level.").short('v'),
        Flag::string("vmodule", "", "Accepted and without effect.").hidden(),
        Flag::switch("warnings-as-errors", "Fail when the server warns."),
        Flag::switch("help", "Help for the command.").short('h').hidden(),
    ]
}

/// `-f`, `-k`, `-R`.
fn file_flags(help: &'static str) -> Vec<Flag> {
    vec![
        Flag::strings("filename", help).short('f'),
        Flag::string("kustomize", "", "A kustomization directory.").short('k'),
        Flag::switch("recursive", "Search directories given with -f recursively.").short('R'),
    ]
}

/// `--dry-run`.
fn dry_run_flag() -> Flag {
    Flag::string("dry-run", "none", "none, server or client: how far the change goes.").bare("unchanged")
}

/// `--field-manager`, with the command's own default.
fn field_manager_flag(default: &'static str) -> Flag {
    Flag::string("field-manager", default, "The name under which fields are owned.")
}

/// `--validate`.
fn validate_flag() -> Flag {
    Flag::string("validate", "strict", "strict, warn or ignore: what the server does about unknown fields.").bare("strict")
}

/// What `--validate` means to the server.
pub fn field_validation(args: &Args) -> Result<&'static str> {
    match args.str("validate") {
        "true" | "strict" | "" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "false" | "ignore" => Ok("Ignore"),
        other => Err(message(format!("invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"))),
    }
}
