//! The command line as users type it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, ValueHint,
};
use clap_complete::Shell;
use kuberewind_capture::NetnsSpec;
use kuberewind_export::{Format, TlsParts};

use crate::config::LogFormat;
use crate::exit::Usage;

/// A flight recorder for Kubernetes network traffic.
///
/// Records packets all the time within a time window and a storage limit, and writes any part of
/// that window as one file for Wireshark.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line, the program's own name first. kubectl runs `kubectl foo` as
    /// `kubectl-foo`: what we then say of usage says `kubectl foo`, too.
    pub(crate) fn called_as(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let line: Vec<OsString> = line.into_iter().collect();
        let mut command = Self::command();
        if let Some(name) = line.first().and_then(|program| plugin(Path::new(program))) {
            command = command.bin_name(name);
        }
        Self::from_arg_matches(&command.try_get_matches_from_mut(line)?)
    }
}

/// `kubectl kuberewind` of `/somewhere/kubectl-kuberewind`; dashes within a plugin's name are underscores
/// in its file's.
fn plugin(program: &Path) -> Option<String> {
    let name = program.file_stem()?.to_str()?.strip_prefix("kubectl-")?;
    Some(format!("kubectl {}", name.replace('_', "-")))
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 called wrongly or bad configuration; 3 done, but something that \
should be there is missing (and is named).";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record: on every node of a cluster, or on this machine until Ctrl-C
    Tap(TapArgs),
    /// Write what was recorded as one file
    Pcapdump(PcapdumpArgs),
    /// Show what is recorded, what is held, and what was lost
    Status(StatusArgs),
    /// Look for what would hinder recording, and say how to mend it
    Check(CheckArgs),
    /// Take kuberewind off the cluster
    Clean(CleanArgs),
    /// Show the effective settings and where each comes from
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Serve Wireshark: its list of interfaces, and captures of them
    #[command(hide = true)]
    Extcap(ExtcapArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(ManArgs),
    /// Record a node's pods: what the `DaemonSet` runs
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Open what takes rights: what a recorder starts beside itself
    #[command(hide = true)]
    Opener(OpenerArgs),
}

/// Which cluster, and where in it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "local")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    pub(crate) context: Option<String>,
    /// The namespace that kuberewind is installed in
    #[arg(short = 's', long, value_name = "NAMESPACE", default_value = kuberewind_cluster::names::NAMESPACE, conflicts_with = "local")]
    pub(crate) release_namespace: String,
}

/// Settings, from files and from the command line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Set a value, as with Helm: pcapdump.maxSize=2GB (repeatable)
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    pub(crate) set: Vec<String>,
    /// Read values from a YAML file (repeatable) [default: ./kuberewind.yaml, else
    /// ~/.kuberewind/config.yaml]
    #[arg(short = 'f', long, alias = "config-path", value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub(crate) values: Vec<PathBuf>,
    /// Where the recording lies; the same as --set tap.dataDir=DIR [default: /var/lib/kuberewind]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, global = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kuberewind tap --set headless=true
  kuberewind tap 'cart|checkout' -n shop,payments
  kuberewind tap -e kube-system --set pcapdump.maxTime=24h,pcapdump.maxSize=20GB
  sudo kuberewind tap --local
  sudo kuberewind tap --local --netns blue --set pcapdump.maxTime=24h,pcapdump.maxSize=20GB
  sudo kuberewind tap --local -i eth0 --set tap.bpfOverride='tcp port 443'")]
pub(crate) struct TapArgs {
    /// Record the pods whose name this regular expression matches; the same as --set tap.regex=REGEX
    /// [default: all pods]
    #[arg(value_name = "POD_REGEX", conflicts_with = "local")]
    pub(crate) regex: Option<String>,
    /// Record this machine
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) deploy: DeployArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Record a network namespace instead of the machine's own: a name in /run/netns, a path, a PID,
    /// or `host` for the machine's own (repeatable)
    #[arg(long, value_name = "NAME|PATH|PID", requires = "local")]
    pub(crate) netns: Vec<NetnsSpec>,
    /// Record only this interface (repeatable) [default: all]
    #[arg(short, long, value_name = "NAME", requires = "local")]
    pub(crate) interface: Vec<String>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `tap` does to a cluster.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DeployArgs {
    /// Record only pods of these namespaces (repeatable, or a list with commas)
    #[arg(short, long, value_name = "NAMESPACE", value_delimiter = ',', conflicts_with = "local")]
    pub(crate) namespaces: Vec<String>,
    /// Never record pods of these namespaces (repeatable, or a list with commas)
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        value_delimiter = ',',
        alias = "excludedNamespaces",
        conflicts_with = "local"
    )]
    pub(crate) excluded_namespaces: Vec<String>,
    /// Show which pods would be recorded, and change nothing
    #[arg(long, conflicts_with = "local")]
    pub(crate) dry_run: bool,
    /// With --dry-run: print the objects instead
    #[arg(short, long, value_enum, value_name = "FORMAT", requires = "dry_run")]
    pub(crate) output: Option<OutputArg>,
    /// How long to wait until every node records
    #[arg(long, value_name = "DURATION", default_value = "2m", conflicts_with = "local")]
    pub(crate) wait: String,
    /// Where the image is pulled from; the same as --set tap.docker.registry=REGISTRY
    #[arg(short = 'r', long, value_name = "REGISTRY", conflicts_with = "local")]
    pub(crate) docker_registry: Option<String>,
    /// The image's tag; the same as --set tap.docker.tag=TAG
    #[arg(short = 't', long, value_name = "TAG", conflicts_with = "local")]
    pub(crate) docker_tag: Option<String>,
    /// Forget the values that an earlier `tap` set
    #[arg(long, conflicts_with = "local")]
    pub(crate) reset_values: bool,
    /// Take over fields of the objects that something else has changed since
    #[arg(long, conflicts_with = "local")]
    pub(crate) force_conflicts: bool,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputArg {
    /// As YAML
    Yaml,
    /// As JSON
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// For who looks for it here; there is nothing to take off a single machine
    #[arg(long, hide = true)]
    pub(crate) local: bool,
    /// Leave the recordings on the nodes
    #[arg(long)]
    pub(crate) keep_data: bool,
    /// How long to wait until everything is gone
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub(crate) wait: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  kuberewind pcapdump --time 5m
  kuberewind pcapdump --time 5m --pod '^cart-' -n shop --dest cart.pcapng
  sudo kuberewind pcapdump --local --time 5m
  sudo kuberewind pcapdump --local --since 2026-11-22T21:30:00Z --until 2026-11-22T21:35:00Z
  sudo kuberewind pcapdump --local --time 1h --filter 'host 10.0.0.7 and port 53' --dest dns.pcapng
  sudo kuberewind pcapdump --local --follow --dest - | tshark -r -"
)]
pub(crate) struct PcapdumpArgs {
    #[command(subcommand)]
    pub(crate) switch: Option<SwitchCommand>,
    #[command(flatten)]
    pub(crate) export: ExportArgs,
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SwitchCommand {
    /// Stop recording; what is recorded stays, and expires as before
    Stop(SwitchArgs),
    /// Start recording again
    Start(SwitchArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SwitchArgs {
    /// On this machine
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// What of a cluster's recording.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct SelectArgs {
    /// Only packets of pods whose name this regular expression matches
    #[arg(long, value_name = "REGEX", conflicts_with = "local")]
    pub(crate) pod: Option<String>,
    /// Only packets of pods of these namespaces (repeatable, or a list with commas)
    #[arg(short, long, value_name = "NAMESPACE", value_delimiter = ',', conflicts_with = "local")]
    pub(crate) namespaces: Vec<String>,
    /// Only from these nodes (repeatable, or a list with commas)
    #[arg(long, value_name = "NODE", value_delimiter = ',', conflicts_with = "local")]
    pub(crate) node: Vec<String>,
    /// From how many nodes at a time
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "local")]
    pub(crate) parallel: u16,
    /// How long to wait for a node that says nothing
    #[arg(long, value_name = "DURATION", default_value = "30s", conflicts_with = "local")]
    pub(crate) timeout: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Export this machine's recording
    #[arg(long)]
    pub(crate) local: bool,
    /// How far back: 5m, 1h30m [default: all that is held]
    #[arg(long, value_name = "DURATION", conflicts_with = "since")]
    pub(crate) time: Option<String>,
    /// Start of the window: an RFC 3339 time, or how long ago: 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// End of the window: an RFC 3339 time, or how long ago: 5m [default: now]
    #[arg(long, value_name = "TIME", conflicts_with = "time")]
    pub(crate) until: Option<String>,
    /// Where to: a directory, a file, or - for standard output [default: .]
    #[arg(long, value_name = "DIR|FILE|-", value_hint = ValueHint::AnyPath)]
    pub(crate) dest: Option<PathBuf>,
    /// File format [default: the destination's extension, else pcap]
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatArg>,
    /// Only packets that match, in tcpdump's language
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
    /// What of TLS goes into the file: auto is decrypted conversations in .pcap, and secrets, with
    /// which Wireshark decrypts, in .pcapng
    #[arg(long, value_enum, default_value_t)]
    pub(crate) tls: TlsArg,
    /// How often packets stand in the file that were recorded at both ends: as one end of each
    /// connection saw them, or as all did [default: one; with --follow, all]
    #[arg(long, value_enum)]
    pub(crate) vantage: Option<VantageArg>,
    /// Write the completeness report to a file, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
    /// Exit with 0 even if something is missing from the file
    #[arg(long)]
    pub(crate) allow_partial: bool,
    /// Go on with packets as they come, until Ctrl-C
    #[arg(long, conflicts_with = "until")]
    pub(crate) follow: bool,
}

/// `--tls`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsArg {
    /// By the file's format
    #[default]
    Auto,
    /// Exactly the recorded packets
    None,
    /// The secrets, which only .pcapng can hold
    Secrets,
    /// What was decrypted, as conversations of their own
    Plaintext,
    /// Secrets and what was decrypted
    Both,
}

impl TlsArg {
    /// What is written into a file of this format.
    pub(crate) fn parts(self, format: Format) -> Result<TlsParts, Usage> {
        let (secrets, plaintext) = match (self, format) {
            (Self::None, _) => (false, false),
            (Self::Auto, Format::Pcap) | (Self::Plaintext, _) => (false, true),
            (Self::Auto | Self::Secrets, Format::Pcapng) => (true, false),
            (Self::Both, Format::Pcapng) => (true, true),
            (Self::Secrets | Self::Both, Format::Pcap) => {
                let text = "--tls secrets and --tls both need --format pcapng: .pcap has no place for secrets";
                return Err(Usage(text.to_owned()));
            }
        };
        Ok(TlsParts { secrets, plaintext })
    }
}

/// `--vantage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VantageArg {
    /// One view of each connection, and what only others saw of it
    One,
    /// Every packet as often as it was recorded
    All,
}

impl ExportArgs {
    /// Whose views of each connection are wanted.
    pub(crate) fn vantage(&self) -> Result<VantageArg, Usage> {
        match self.vantage {
            Some(VantageArg::One) if self.follow => {
                let text = "--vantage one chooses once all packets are there, and --follow shows them \
                            as they come: leave out one of the two";
                Err(Usage(text.to_owned()))
            }
            Some(vantage) => Ok(vantage),
            None if self.follow => Ok(VantageArg::All),
            None => Ok(VantageArg::One),
        }
    }
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// Classic, with nanoseconds: every tool reads it
    Pcap,
    /// With interface names and the completeness report inside
    Pcapng,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Pcap => Self::Pcap,
            FormatArg::Pcapng => Self::Pcapng,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Of this machine
    #[arg(long)]
    pub(crate) local: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 nothing blocks, though there may be warnings; 1 something blocks.

Examples:
  kuberewind check
  kuberewind check --for pcapdump
  kuberewind check --set pcapdump.maxSize=20GB -o json
  sudo kuberewind check --local")]
pub(crate) struct CheckArgs {
    /// This machine
    #[arg(long)]
    pub(crate) local: bool,
    /// Rights for these commands only (repeatable, or a list with commas) [default: all]
    #[arg(
        long = "for",
        value_enum,
        value_name = "COMMAND",
        value_delimiter = ',',
        conflicts_with = "local"
    )]
    pub(crate) deeds: Vec<DeedArg>,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<OutputArg>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// `check --for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeedArg {
    /// Installing and changing
    Tap,
    /// Exporting, and `status`
    Pcapdump,
    /// `pcapdump stop` and `start`
    Stop,
    /// Taking off
    Clean,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    pub(crate) verb: Option<ConfigVerb>,
    /// The settings of the recorder that runs on this machine
    #[arg(long, global = true)]
    pub(crate) local: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Change settings of the running recorder, without a gap in the recording
    Set {
        /// As with --set: pcapdump.maxSize=2GB
        #[arg(required = true, value_name = "KEY=VALUE")]
        assignments: Vec<String>,
    },
    /// Explain a setting, or all of them
    Explain {
        /// Its name: pcapdump.maxSize
        key: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// What Wireshark asks (extcap(4)), and what its users choose in its dialog. Wireshark repeats what the
/// wrapper says already: the last word counts.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[expect(clippy::struct_excessive_bools, reason = "Wireshark asks with flags")]
pub(crate) struct ExtcapArgs {
    /// Put kuberewind into Wireshark's list of interfaces
    #[arg(long)]
    pub(crate) install: bool,
    /// With --install: where, instead of Wireshark's personal extcap folder
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, requires = "install")]
    pub(crate) dir: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub(crate) extcap_interfaces: bool,
    #[arg(long, hide = true)]
    pub(crate) extcap_dlts: bool,
    #[arg(long, hide = true)]
    pub(crate) extcap_config: bool,
    #[arg(long, hide = true)]
    pub(crate) capture: bool,
    #[arg(long, hide = true)]
    pub(crate) extcap_interface: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) extcap_capture_filter: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) fifo: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub(crate) extcap_version: Option<String>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "5m", hide = true)]
    pub(crate) time: String,
    /// Go on with packets as they come
    #[arg(long, hide = true)]
    pub(crate) follow: bool,
    /// Only of these pods
    #[arg(long, value_name = "REGEX", hide = true)]
    pub(crate) pod: Option<String>,
    /// Only of these namespaces
    #[arg(long, value_name = "NAMESPACE", hide = true)]
    pub(crate) namespaces: Option<String>,
    /// What of TLS
    #[arg(long, value_enum, default_value_t, hide = true)]
    pub(crate) tls: TlsArg,
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace that kuberewind is installed in
    #[arg(short = 's', long, value_name = "NAMESPACE", default_value = kuberewind_cluster::names::NAMESPACE)]
    pub(crate) release_namespace: String,
    /// Where this machine's recording lies [default: /var/lib/kuberewind]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = any_path())]
    pub(crate) data_dir: Option<PathBuf>,
}

/// A path, or nothing: a box of Wireshark's dialog may be empty.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory to write to
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
}

/// What the `DaemonSet` tells its agents, and what a laboratory tells them otherwise.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The node that it records
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node: String,
    /// The namespace of its own pod
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub(crate) namespace: String,
    /// Its own pod
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(crate) pod: String,
    /// The node's /proc
    #[arg(long, value_name = "DIR", default_value = "/host/proc")]
    pub(crate) proc: PathBuf,
    /// A kubeconfig file instead of the pod's service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the recording lies: tap.dataDir, as it is mounted
    #[arg(long, value_name = "DIR", env = "DATA_DIR", default_value = "/var/lib/kuberewind")]
    pub(crate) data_dir: PathBuf,
    /// Where the pod's address answers probes: tap.metrics.port
    #[arg(long, value_name = "PORT", env = "METRICS_PORT", default_value_t = 49_100)]
    pub(crate) metrics_port: u16,
    /// How it logs, from its first line on: logFormat
    #[arg(long, value_name = "FORMAT", env = "LOG_FORMAT", default_value = "text", value_parser = log_format)]
    pub(crate) log_format: LogFormat,
}

/// What a recorder tells its opener.
#[derive(Debug, Args)]
pub(crate) struct OpenerArgs {
    /// Where processes are shown
    #[arg(long, value_name = "DIR")]
    pub(crate) proc: PathBuf,
    /// A file of a network namespace, named by its path
    #[arg(long, value_name = "FILE")]
    pub(crate) netns_file: Vec<PathBuf>,
}

fn log_format(name: &str) -> Result<LogFormat, &'static str> {
    LogFormat::from_name(name).ok_or("expected text or json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_plugin_it_answers_to_kubectl() {
        let usage = |program: &str| {
            let line = [program, "status", "--help"].map(OsString::from);
            Cli::called_as(line).unwrap_err().to_string()
        };
        assert!(usage("/usr/bin/kuberewind").contains("Usage: kuberewind status"));
        let plugin = usage("/home/me/.krew/bin/kubectl-kuberewind");
        assert!(plugin.contains("Usage: kubectl kuberewind status"), "{plugin}");
        assert_eq!(plugin_name("kubectl-re_wind"), Some("kubectl re-wind".to_owned()));
        assert_eq!(plugin_name("kuberewind"), None);
    }

    fn plugin_name(program: &str) -> Option<String> {
        super::plugin(Path::new(program))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
