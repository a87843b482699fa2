//! The arrows between the crates are those of ARCHITECTURE.md, and no others.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Each crate and what it may know.
const ARROWS: [(&str, &[&str]); 12] = [
    ("packet", &[]),
    ("filter", &["packet"]),
    ("tls", &["packet"]),
    ("capture", &["filter", "packet", "tls"]),
    ("store", &["packet"]),
    ("export", &["packet", "tls"]),
    ("kuberewind", &["capture", "cluster", "export", "filter", "packet", "store", "tls"]),
    ("cluster", &["filter", "packet"]),
    ("tests", &["apiserver-double", "packet"]),
    ("apiserver-double", &[]),
    ("fuzz", &["capture", "export", "filter", "packet", "store", "tls"]),
    ("xtask", &["tests"]),
];

#[test]
fn no_crate_knows_more_than_the_map_allows() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .expect("cargo metadata");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: Vec<_> = packages.iter().map(|p| short(&p["name"])).collect();
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    for package in packages {
        let name = short(&package["name"]);
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not on the map"));
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        for dependency in dependencies.iter().filter(|d| d["kind"].is_null()) {
            let dependency = short(&dependency["name"]);
            assert!(
                !names.contains(&dependency) || allowed.contains(&dependency),
                "{name} may not know {dependency}: mend it, or draw the arrow in ARCHITECTURE.md"
            );
        }
    }
}

fn short(name: &Value) -> &str {
    let name = name.as_str().expect("a name");
    name.strip_prefix("kuberewind-").unwrap_or(name)
}
