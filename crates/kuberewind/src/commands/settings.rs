//! From the command line's arguments to settings.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::cli::SettingsArgs;
use crate::config::{Effective, Origin, Sources};
use crate::exit::Usage;

/// Keys that choose pods: there are none on a single machine.
const CLUSTER_KEYS: [&str; 3] = ["tap.regex", "tap.namespaces", "tap.excludedNamespaces"];

/// The settings that files and flags make.
pub(super) fn load(args: &SettingsArgs) -> anyhow::Result<Effective> {
    Ok(Effective::load(&sources(args)?)?)
}

/// Where they come from.
pub(super) fn sources(args: &SettingsArgs) -> anyhow::Result<Sources> {
    let mut flags = Vec::new();
    if let Some(dir) = &args.data_dir {
        let dir = std::path::absolute(dir).context("find the working directory")?;
        let dir = dir
            .to_str()
            .ok_or_else(|| Usage(format!("--data-dir {} is not UTF-8", dir.display())))?;
        flags.push(("tap.dataDir", dir.into(), "--data-dir"));
    }
    Ok(Sources { values: args.values.clone(), set: args.set.clone(), flags, ..Sources::here() })
}

/// Refuses what would silently do nothing on a single machine.
pub(super) fn refuse_cluster_keys(settings: &Effective) -> anyhow::Result<()> {
    for key in CLUSTER_KEYS {
        let origin = settings.origin(key);
        if origin != Origin::Default {
            let text = format!(
                "{key} ({origin}) chooses pods and has no meaning with --local; --netns and -i choose what to record"
            );
            return Err(Usage(text).into());
        }
    }
    Ok(())
}

/// Where the recording lies.
pub(super) fn data_dir(args: &SettingsArgs) -> anyhow::Result<PathBuf> {
    Ok(load(args)?.config().tap.data_dir.clone())
}
