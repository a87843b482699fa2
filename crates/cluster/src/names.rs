//! The names that the chart, the agent and the command line agree on.

/// Field manager of everything that `tap` applies.
pub const FIELD_MANAGER: &str = "kuberewind";

/// Field manager of `recording: stopped|started`, which `tap` thereby never undoes.
pub const RECORDING_MANAGER: &str = "kuberewind-recording";

/// Where it is installed unless told otherwise.
pub const NAMESPACE: &str = "kuberewind";

/// The daemonset.
pub const DAEMONSET: &str = "kuberewind-agent";

/// Where an agent's API listens: on its pod's loopback, nowhere else.
pub const API_PORT: u16 = 49101;

/// The `ConfigMap` of the agents.
pub const CONFIG_MAP: &str = "kuberewind";

/// On every object of the chart, pods included.
pub const LABEL_NAME: (&str, &str) = ("app.kubernetes.io/name", "kuberewind");

/// On the agents' pods, besides [`LABEL_NAME`].
pub const LABEL_AGENT: (&str, &str) = ("app.kubernetes.io/component", "agent");

/// The agent's version, on its pods.
pub const LABEL_VERSION: &str = "app.kubernetes.io/version";

/// `Helm` on what a Helm release manages.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Selects everything of the chart.
pub(crate) fn ours() -> String {
    format!("{}={}", LABEL_NAME.0, LABEL_NAME.1)
}

/// Selects the agents' pods.
pub(crate) fn agents() -> String {
    format!("{},{}={}", ours(), LABEL_AGENT.0, LABEL_AGENT.1)
}
