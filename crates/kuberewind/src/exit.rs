//! Exit codes: the same for every command.

use std::process::ExitCode;

use crate::agent::{RecorderError, WantedError};
use crate::config::ConfigError;
use kuberewind_export::DestinationError;
use kuberewind_filter::FilterError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All of it was done.
    Complete = 0,
    /// It failed.
    Failed = 1,
    /// It was asked for wrongly: nothing was done.
    Usage = 2,
    /// It was done, but something that should be there is missing, and is named.
    Incomplete = 3,
}

/// A mistake in how the command was called; the text says what and how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Exit {
    /// The exit code of an error.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if error.chain().any(is_usage) { Self::Usage } else { Self::Failed }
    }
}

/// An error and its causes in one line, each said once: many an error's text ends with its cause.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn is_usage(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<Usage>()
        || cause.is::<ConfigError>()
        || cause.is::<FilterError>()
        || cause.is::<WantedError>()
        || cause.downcast_ref::<DestinationError>().is_some_and(DestinationError::is_usage)
        || cause.downcast_ref::<RecorderError>().is_some_and(RecorderError::is_usage)
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_said_once() {
        let disk = std::io::Error::other("the disk is tired");
        let error =
            anyhow::Error::new(disk).context("write x: the disk is tired").context("export");
        assert_eq!(one_line(&error), "export: write x: the disk is tired");
    }
}
