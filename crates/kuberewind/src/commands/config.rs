//! `kuberewind config`.

use anyhow::Context as _;

use crate::cli::{ConfigCommand, ConfigVerb, SettingsArgs};
use crate::client::Client;
use crate::config::{self, ConfigError, Effective, KEYS, Key, Origin, Sources};
use crate::exit::{Exit, Usage};

use super::settings;

/// Shows settings, or changes those of the running recorder.
pub(crate) fn configuration(args: &ConfigCommand) -> anyhow::Result<Exit> {
    match &args.verb {
        Some(ConfigVerb::Set { assignments }) => change(args, assignments),
        Some(ConfigVerb::Explain { key }) => explain(key.as_deref()),
        None if args.local => show(&running(&args.settings)?, args.json),
        None => show(&settings::load(&args.settings)?.to_json(), args.json),
    }
}

fn show(settings: &serde_json::Value, json: bool) -> anyhow::Result<Exit> {
    let text = if json {
        serde_json::to_string_pretty(settings).context("write JSON")? + "\n"
    } else {
        config::listing(settings)
    };
    anstream::print!("{text}");
    Ok(Exit::Complete)
}

fn running(args: &SettingsArgs) -> anyhow::Result<serde_json::Value> {
    Client::connect(&settings::data_dir(args)?)?.settings()
}

/// What a key means, as `kubectl explain` does; all of them without a key.
fn explain(name: Option<&str>) -> anyhow::Result<Exit> {
    let unknown = |name: &str| ConfigError::UnknownKey {
        key: name.to_owned(),
        origin: Origin::Flag("config explain"),
    };
    let keys = match name {
        None => KEYS,
        Some(name) => std::slice::from_ref(Key::named(name).ok_or_else(|| unknown(name))?),
    };
    for key in keys {
        let live = if key.live { "" } else { "; fixed while recording" };
        let Key { name, form, about, .. } = key;
        anstream::println!("{name} ({form}; default {}{live})\n    {about}", key.default());
    }
    Ok(Exit::Complete)
}

fn change(args: &ConfigCommand, assignments: &[String]) -> anyhow::Result<Exit> {
    if !args.local {
        let text = "config set changes the recorder of this machine: add --local; on a cluster, kuberewind tap --set KEY=VALUE changes the agents' settings";
        return Err(Usage(text.to_owned()).into());
    }
    let dir = settings::data_dir(&args.settings)?;
    let tree = assigned(assignments)?;
    let mut client = Client::connect(&dir)?;
    let before = client.settings()?;
    let after = client.change_settings(&tree)?;
    let changed = config::changes(&before["values"], &after["values"]);
    if changed.is_empty() {
        anstream::println!("nothing to change");
    }
    for change in changed {
        anstream::println!("{change}");
    }
    Ok(Exit::Complete)
}

/// What the assignments set, as a tree.
fn assigned(assignments: &[String]) -> anyhow::Result<serde_json::Value> {
    let sources = Sources { set: assignments.to_vec(), ..Sources::default() };
    let assigned = Effective::load(&sources)?;
    settings::refuse_cluster_keys(&assigned)?;
    let mut tree = serde_json::json!({});
    for key in KEYS.iter().filter(|key| assigned.origin(key.name) == Origin::Set) {
        let pointer = format!("/{}", key.name.replace('.', "/"));
        let value = assigned.tree().pointer(&pointer).cloned().unwrap_or_default();
        *key.name.split('.').fold(&mut tree, |tree, name| &mut tree[name]) = value;
    }
    Ok(tree)
}
