//! What `GET /v1/window` takes, and what becomes of a parameter that this version does not know.

use std::ops::Not;

use kuberewind_packet::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::Unknown;
use crate::VERSION;

/// Which window is wanted. What is at its default is not sent, so that an agent of another version is
/// asked only for what is really wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowQuery {
    /// First instant of the window; none = the oldest that is held.
    pub(crate) from: Option<Timestamp>,
    /// First instant after it; none = the agent's now.
    pub(crate) to: Option<Timestamp>,
    /// A filter in libpcap's language.
    pub(crate) filter: Option<String>,
    /// Whether to compress: pays on a network, not on a Unix socket.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) compress: bool,
    /// Whether TLS secrets are wanted, of connections that began in the window.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) tls: bool,
    /// To go on after `to`: a number of the asker's choice, under which `DELETE /v1/follow/N` ends
    /// the stream in good order.
    pub(crate) follow: Option<u64>,
    /// Only packets of pods whose name matches this regular expression, unanchored.
    pub(crate) pods: Option<String>,
    /// Only packets of pods of these namespaces, with commas between them.
    pub(crate) namespaces: Option<String>,
    /// Who asks, as he says himself: for the log.
    pub(crate) user: Option<String>,
}

/// The names of all of them.
const PARAMETERS: [&str; 9] =
    ["from", "to", "filter", "compress", "tls", "follow", "pods", "namespaces", "user"];

/// Why a query cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// Ignored, it might give other packets than were asked for.
    #[error("kuberewind {} does not know the parameter {}", .0.version, .0.parameters.join(", "))]
    Unknown(Unknown),
    #[error("the window's query cannot be read: {0}")]
    Malformed(#[from] serde_urlencoded::de::Error),
}

impl WindowQuery {
    /// Takes a request's query apart.
    pub(crate) fn parse(query: &str) -> Result<Self, QueryError> {
        let given: Vec<(String, String)> = serde_urlencoded::from_str(query)?;
        let names = given.into_iter().map(|(name, _)| name);
        let parameters: Vec<_> = names.filter(|name| !PARAMETERS.contains(&&**name)).collect();
        if parameters.is_empty() {
            return Ok(serde_urlencoded::from_str(query)?);
        }
        Err(QueryError::Unknown(Unknown { version: VERSION.to_owned(), parameters }))
    }

    /// As `parse` takes it.
    pub(crate) fn encode(&self) -> Result<String, serde_urlencoded::ser::Error> {
        serde_urlencoded::to_string(self)
    }

    /// The window that is asked for, with `now` on the agent's clock.
    pub(crate) fn span(&self, now: Timestamp) -> Span {
        Span::new(self.from.unwrap_or(Timestamp::MIN), self.to.unwrap_or(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> WindowQuery {
        let text = |text: &str| Some(text.to_owned());
        WindowQuery {
            from: Some(Timestamp::from_parts(1_000, 0)),
            to: Some(Timestamp::from_parts(2_000, 0)),
            filter: text("tcp port 80 && host a"),
            compress: true,
            tls: true,
            follow: Some(7),
            pods: text("^cart-[0-9]+$"),
            namespaces: text("shop,bank"),
            user: text("ö"),
        }
    }

    #[test]
    fn every_parameter_is_known_and_means_what_was_meant() {
        let text = full().encode().unwrap();
        let names: Vec<_> = text.split('&').map(|pair| pair.split_once('=').unwrap().0).collect();
        assert_eq!(names, PARAMETERS);
        let again = WindowQuery::parse(&text).unwrap();
        assert_eq!(format!("{again:?}"), format!("{:?}", full()));
    }

    #[test]
    fn what_is_at_its_default_is_not_sent() {
        assert_eq!(WindowQuery::default().encode().unwrap(), "");
    }

    #[test]
    fn an_unknown_parameter_is_named_and_not_ignored() {
        let error = WindowQuery::parse("compress=true&hosts=a&vlan=7").unwrap_err();
        let QueryError::Unknown(unknown) = &error else { panic!("{error}") };
        assert_eq!(unknown.parameters, ["hosts", "vlan"]);
        assert!(error.to_string().ends_with("does not know the parameter hosts, vlan"), "{error}");
        let error = WindowQuery::parse("follow=often").unwrap_err();
        assert!(matches!(error, QueryError::Malformed(_)), "{error}");
    }
}
