//! Which of the packets in a window are wanted.

use std::collections::BTreeSet;
use std::sync::Arc;

use kuberewind_filter::{FilterError, StoredFilter};
use kuberewind_store::{Choice, Keep, KeepInterface, KeepOwner};
use regex::Regex;

use super::WindowQuery;
use super::tls::PLAINTEXT;

/// What a window query chooses within its time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    filter: Option<Arc<StoredFilter>>,
    pods: Option<Arc<Pods>>,
}

/// Why a query chooses nothing that can be looked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WantedError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("--pod {pattern}: {source}")]
    Pods { pattern: String, source: regex::Error },
}

/// Pods by their names.
#[derive(Debug)]
struct Pods {
    name: Option<Regex>,
    /// Empty: of all of them.
    namespaces: BTreeSet<String>,
}

impl Wanted {
    /// Compiles the query's filter and pods. The command line does so before it asks anyone.
    pub(crate) fn compile(query: &WindowQuery) -> Result<Self, WantedError> {
        let filter = query.filter.as_deref().map(StoredFilter::compile).transpose()?;
        let pods = Pods::compile(query.pods.as_deref(), query.namespaces.as_deref())?;
        Ok(Self { filter: filter.map(Arc::new), pods: pods.map(Arc::new) })
    }

    /// Whether packets of this owner are wanted at all.
    pub(crate) fn takes_owner(&self, owner: &str) -> bool {
        self.pods.as_ref().is_none_or(|pods| pods.contain(owner))
    }

    /// The store's view of it: that knows owners and bytes, not expressions. `plaintext`: with what
    /// probes saw of TLS.
    pub(crate) fn choice(&self, plaintext: bool) -> Choice {
        let owners = self
            .pods
            .clone()
            .map(|pods| -> KeepOwner { Box::new(move |owner| pods.contain(owner)) });
        let packets = self.filter.clone().map(|filter| -> Keep {
            Box::new(move |original_len, data| filter.matches(original_len, data))
        });
        let interfaces = (!plaintext)
            .then(|| -> KeepInterface { Box::new(|interface| interface.name != PLAINTEXT) });
        Choice { owners, interfaces, packets }
    }
}

impl Pods {
    fn compile(
        pattern: Option<&str>,
        namespaces: Option<&str>,
    ) -> Result<Option<Self>, WantedError> {
        let broken =
            |source, pattern: &str| WantedError::Pods { pattern: pattern.to_owned(), source };
        let name = pattern.map(|pattern| Regex::new(pattern).map_err(|e| broken(e, pattern)));
        let namespaces = namespaces.unwrap_or_default().split(',').map(str::trim);
        let pods = Self {
            name: name.transpose()?,
            namespaces: namespaces.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        };
        Ok((pods.name.is_some() || !pods.namespaces.is_empty()).then_some(pods))
    }

    /// Of an owner as accounts name it: `namespace/pod`; `host` is no pod.
    fn contain(&self, owner: &str) -> bool {
        owner.split_once('/').is_some_and(|(namespace, pod)| {
            (self.namespaces.is_empty() || self.namespaces.contains(namespace))
                && self.name.as_ref().is_none_or(|name| name.is_match(pod))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(pods: Option<&str>, namespaces: Option<&str>) -> Vec<&'static str> {
        let query = WindowQuery {
            pods: pods.map(str::to_owned),
            namespaces: namespaces.map(str::to_owned),
            ..WindowQuery::default()
        };
        let owners = Wanted::compile(&query).unwrap().choice(true).owners;
        let all = ["host", "shop/cart-7", "shop/web-1", "pay/cart-2"];
        all.into_iter().filter(|owner| owners.as_ref().is_none_or(|takes| takes(owner))).collect()
    }

    #[test]
    fn pods_are_chosen_by_name_and_namespace() {
        assert_eq!(takes(None, None), ["host", "shop/cart-7", "shop/web-1", "pay/cart-2"]);
        assert_eq!(takes(Some("cart"), None), ["shop/cart-7", "pay/cart-2"]);
        assert_eq!(takes(Some("^cart-7$"), None), ["shop/cart-7"]);
        assert_eq!(takes(None, Some("shop")), ["shop/cart-7", "shop/web-1"]);
        assert_eq!(takes(Some("cart"), Some("pay, other")), ["pay/cart-2"]);
        assert_eq!(takes(Some("shop"), None), [""; 0]);
    }

    #[test]
    fn what_cannot_be_compiled_is_named() {
        let query = WindowQuery { pods: Some("cart(".to_owned()), ..WindowQuery::default() };
        let error = Wanted::compile(&query).unwrap_err().to_string();
        assert!(error.starts_with("--pod cart(: "), "{error}");
    }
}
