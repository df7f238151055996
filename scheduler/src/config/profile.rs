//! A profile: which plugins are called where, and what they are told.

use super::args::{PluginArgs, ResourceSpec};
use super::file::{self, File, PluginList, PluginName, Plugins};
use crate::framework::Point;
use crate::plugins::{Enabled, Lists, TABLE};
use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// A profile of the file, with its arguments decoded.
pub struct Profile {
    pub name: String,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: Plugins,
    pub args: PluginArgs,
    /// The names under `pluginConfig`.
    pub configured: Vec<String>,
}

/// The file's profiles; one with the defaults if there are none.
pub fn all(file: &File) -> anyhow::Result<Vec<Profile>> {
    let mut profiles = file.profiles.clone();
    if profiles.is_empty() {
        profiles.push(file::Profile::default());
    }
    let alone = profiles.len() == 1;
    let decode = |(position, profile): (usize, file::Profile)| {
        // A profile that is alone need not say that it is the default.
        let name = profile.scheduler_name.unwrap_or_else(|| if alone { super::DEFAULT_NAME.to_owned() } else { String::new() });
        let mut args = PluginArgs::default();
        for (index, configured) in profile.plugin_config.iter().enumerate() {
            decode_args(&mut args, &configured.name, &configured.args).with_context(|| {
                format!("decoding .profiles[{position}].pluginConfig[{index}]: decoding args for plugin {}", configured.name)
            })?;
        }
        Ok(Profile {
            name,
            percentage_of_nodes_to_score: profile.percentage_of_nodes_to_score,
            plugins: profile.plugins.unwrap_or_default(),
            args,
            configured: profile.plugin_config.into_iter().map(|configured| configured.name).collect(),
        })
    };
    profiles.into_iter().enumerate().map(decode).collect()
}

fn decode_args(args: &mut PluginArgs, plugin: &str, value: &Value) -> anyhow::Result<()> {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        for (field, expected) in [("apiVersion", super::VERSION.to_owned()), ("kind", format!("{plugin}Args"))] {
            if let Some(given) = fields.remove(field) {
                ensure!(
                    given == expected,
                    "args for plugin {plugin} were not of type {plugin}Args.kubescheduler.config.k8s.io, got {given}"
                );
            }
        }
    }
    if value.is_null() {
        return Ok(());
    }
    match plugin {
        "DefaultPreemption" => args.default_preemption = file::strictly(&value, "")?,
        "DynamicResources" => args.dynamic_resources = file::strictly(&value, "")?,
        "InterPodAffinity" => args.inter_pod_affinity = file::strictly(&value, "")?,
        "NodeAffinity" => args.node_affinity = file::strictly(&value, "")?,
        "NodeResourcesBalancedAllocation" => {
            args.balanced_allocation = file::strictly(&value, "")?;
            default_resources(&mut args.balanced_allocation.resources);
        }
        "NodeResourcesFit" => {
            args.resources_fit = file::strictly(&value, "")?;
            if let Some(strategy) = &mut args.resources_fit.scoring_strategy {
                default_resources(&mut strategy.resources);
            }
        }
        "PodTopologySpread" => args.topology_spread = file::strictly(&value, "")?,
        "VolumeBinding" => args.volume_binding = file::strictly(&value, "")?,
        // Plugins that take none may be given anything, as upstream's registry has it for plugins of others.
        _ => {}
    }
    Ok(())
}

fn default_resources(resources: &mut Vec<ResourceSpec>) {
    if resources.is_empty() {
        *resources = ResourceSpec::defaults();
    }
    for resource in resources.iter_mut().filter(|resource| resource.weight == 0) {
        resource.weight = 1;
    }
}

impl Profile {
    /// It with its defaults, as a file would have it.
    pub fn shown(&self) -> anyhow::Result<file::Profile> {
        let multi_point = PluginList { enabled: merged(&self.plugins.multi_point)?, ..self.plugins.multi_point.clone() };
        Ok(file::Profile {
            scheduler_name: Some(self.name.clone()),
            percentage_of_nodes_to_score: self.percentage_of_nodes_to_score,
            plugins: Some(Plugins { multi_point, ..self.plugins.clone() }),
            plugin_config: all_args(&self.args)?,
        })
    }

    /// The plugins at every point (upstream: `mergePlugins` and `expandMultiPointPlugins`).
    pub fn lists(&self) -> anyhow::Result<Lists> {
        let everywhere = merged(&self.plugins.multi_point)?;
        let mut lists = Lists::default();
        for (point, (_, list)) in Point::ALL.into_iter().zip(self.plugins.by_point()) {
            lists[point as usize] = at(point, list, &everywhere)?;
        }
        ensure!(
            !lists[Point::QueueSort as usize].is_empty(),
            "at least one queue sort plugin is needed for profile with scheduler name {:?}",
            self.name
        );
        ensure!(
            !lists[Point::Bind as usize].is_empty(),
            "at least one bind plugin is needed for profile with scheduler name {:?}",
            self.name
        );
        Ok(lists)
    }
}

/// The arguments of every plugin that takes some, by its name.
fn all_args(args: &PluginArgs) -> serde_json::Result<Vec<file::PluginConfig>> {
    let values = [
        ("DefaultPreemption", serde_json::to_value(&args.default_preemption)?),
        ("DynamicResources", serde_json::to_value(&args.dynamic_resources)?),
        ("InterPodAffinity", serde_json::to_value(&args.inter_pod_affinity)?),
        ("NodeAffinity", serde_json::to_value(&args.node_affinity)?),
        ("NodeResourcesBalancedAllocation", serde_json::to_value(&args.balanced_allocation)?),
        ("NodeResourcesFit", serde_json::to_value(&args.resources_fit)?),
        ("PodTopologySpread", serde_json::to_value(&args.topology_spread)?),
        ("VolumeBinding", serde_json::to_value(&args.volume_binding)?),
    ];
    let config = |(name, mut args): (&str, Value)| {
        args["apiVersion"] = super::VERSION.into();
        args["kind"] = format!("{name}Args").into();
        file::PluginConfig { name: name.to_owned(), args }
    };
    Ok(values.into_iter().map(config).collect())
}

/// A row of the table with this name: the points at which it can be called, and its weight.
fn row(name: &str) -> Option<(&'static [Point], i64)> {
    let args = PluginArgs::default();
    TABLE.iter().find_map(|row| {
        let plugin = (row.make)(&args);
        (plugin.name() == name).then(|| (plugin.points(), row.weight))
    })
}

/// The plugins that are called wherever they can be: the defaults but for those disabled, in their order, then others.
fn merged(custom: &PluginList) -> anyhow::Result<Vec<PluginName>> {
    let args = PluginArgs::default();
    let mut plugins = Vec::new();
    for row in TABLE {
        let plugin = (row.make)(&args);
        let name = plugin.name();
        if custom.disables(name) {
            continue;
        }
        let own = custom.enabled.iter().find(|enabled| enabled.name == name).cloned();
        plugins.push(own.unwrap_or(PluginName { name: name.to_owned(), weight: Some(row.weight).filter(|weight| *weight > 0) }));
    }
    for enabled in &custom.enabled {
        ensure!(row(&enabled.name).is_some(), "plugin {:?} does not exist", enabled.name);
        if !plugins.iter().any(|plugin| plugin.name == enabled.name) {
            plugins.push(enabled.clone());
        }
    }
    Ok(plugins)
}

/// First those that the point and everything name, then the rest of everything, then those that only the point names.
fn at(point: Point, list: &PluginList, everywhere: &[PluginName]) -> anyhow::Result<Vec<Enabled>> {
    let mut own: Vec<Enabled> = Vec::new();
    for plugin in &list.enabled {
        let name = &plugin.name;
        let Some((points, _)) = row(name) else { bail!("plugin {name:?} does not exist") };
        ensure!(points.contains(&point), "plugin {name:?} does not extend {point:?} plugin");
        ensure!(!own.iter().any(|enabled| enabled.name == *name), "plugin {name:?} already registered as \"{point:?}\"");
        own.push(Enabled { name: name.clone(), weight: plugin.weight.filter(|weight| *weight != 0).unwrap_or(1) });
    }
    let can_be_called = |name: &str| row(name).is_some_and(|(points, _)| points.contains(&point));
    let wanted = everywhere.iter().filter(|plugin| !list.disables(&plugin.name) && can_be_called(&plugin.name));
    let rest: Vec<Enabled> = wanted
        .filter(|plugin| !own.iter().any(|enabled| enabled.name == plugin.name))
        .map(|plugin| Enabled { name: plugin.name.clone(), weight: weight(point, plugin) })
        .collect();
    let (both, alone): (Vec<Enabled>, Vec<Enabled>) =
        own.into_iter().partition(|enabled| everywhere.iter().any(|p| p.name == enabled.name));
    Ok(both.into_iter().chain(rest).chain(alone).collect())
}

fn weight(point: Point, plugin: &PluginName) -> i64 {
    if point == Point::Score { plugin.weight.filter(|weight| *weight != 0).unwrap_or(1) } else { plugin.weight.unwrap_or(0) }
}
