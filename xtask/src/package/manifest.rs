//! What krew and Homebrew read: where the archives are, and their checksums.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::archive::digest;
use super::{VERSION, source};

/// Names and texts of the manifests.
pub(super) fn all(
    url: &str,
    archives: &[(String, PathBuf)],
) -> Result<[(&'static str, String); 2]> {
    let url = url.trim_end_matches('/');
    let (mut krew, mut brew) = (String::new(), String::new());
    for (arch, path) in archives {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (uri, sum) = (format!("{url}/{name}"), digest(&fs::read(path)?));
        // Writing to a String cannot fail.
        let _ = write!(
            krew,
            "    - selector:\n        matchLabels:\n          os: linux\n          arch: {arch}\n      \
             uri: {uri}\n      sha256: {sum}\n      bin: kuberewind\n      files:\n        \
             - from: kuberewind-{VERSION}/kuberewind\n          to: .\n        \
             - from: kuberewind-{VERSION}/LICENSE\n          to: .\n"
        );
        let family = if arch == "arm64" { "on_arm" } else { "on_intel" };
        let _ = write!(
            brew,
            "  on_linux do\n    {family} do\n      url \"{uri}\"\n      sha256 \"{sum}\"\n    end\n  end\n"
        );
    }
    let filled = |template: &str, platforms: &str| {
        let text = source(template)?;
        let text = text.replace("@VERSION@", VERSION).replace("@URL@", url);
        Ok::<_, anyhow::Error>(text.replace("@PLATFORMS@", platforms.trim_end()))
    };
    Ok([
        ("krew.yaml", filled("krew.yaml.in", &krew)?),
        ("kuberewind.rb", filled("kuberewind.rb.in", &brew)?),
    ])
}
