//! What a test may do to the cluster behind the server's back.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rights::User;

/// One act. Over HTTP: `POST /control` with it as JSON, `{"do": "killNode", "name": "n1"}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// Creates or replaces any object, status included.
    Put {
        /// With `apiVersion`, `kind` and `metadata`.
        object: Value,
    },
    /// Deletes any object, if it is there, at once: a pod as when its kubelet says that it has ended.
    Remove {
        /// `v1`, `apps/v1` …
        api_version: String,
        /// `Pod` …
        kind: String,
        /// Empty for the cluster's own.
        #[serde(default)]
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A kubelet tells a pod's status; refused when that pod is gone, as for a real kubelet.
    PodStatus {
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID: a pod of the same name that came since is another one.
        uid: String,
        /// All of the status.
        status: Value,
    },
    /// Adds a node, or changes one.
    Node(Node),
    /// A node loses power: it turns `NotReady`, sessions to its pods break off, new ones are refused.
    KillNode {
        /// The node.
        name: String,
    },
    /// What becomes of pods that the daemonset controller makes.
    Fate {
        /// On this node only; none is on all that have no fate of their own.
        #[serde(default)]
        node: Option<String>,
        /// What.
        fate: Fate,
    },
    /// Somebody who may send requests with this bearer token.
    User {
        /// The token.
        token: String,
        /// Who it is.
        user: User,
    },
    /// Requests without a token are this user's; the admin's at first.
    Anonymous {
        /// Who.
        user: User,
    },
    /// How often bookmarks come.
    Bookmarks {
        /// Milliseconds between two.
        every_ms: u64,
    },
    /// Requests that go wrong.
    Fault(Fault),
    /// Ends all watches now.
    CutWatches {
        /// Without the last chunk, as when the server is killed.
        #[serde(default)]
        abruptly: bool,
    },
    /// Forgets history: going on from an earlier version is 410.
    Expire,
    /// The server goes away, or comes back on the same address with all that it knew. While it is
    /// away connections are refused; those that there were have broken off.
    Serve {
        /// Whether it is there.
        serving: bool,
    },
    /// How port-forwards reach a pod, and how they fail.
    Reach(Reach),
    /// Breaks all port-forward sessions off, without a close frame.
    CutSessions,
}

/// A node to add.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether its kubelet reports `Ready`.
    #[serde(default = "yes")]
    pub ready: bool,
    /// Beside `kubernetes.io/hostname` and `kubernetes.io/os`.
    #[serde(default)]
    pub labels: HashMap<String, String>,
    /// `key`, `value`, `effect` each.
    #[serde(default)]
    pub taints: Vec<Value>,
}

fn yes() -> bool {
    true
}

/// What becomes of a pod that the daemonset controller wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fate {
    /// Running and ready at once.
    Ready,
    /// Made and left `Pending`: whoever plays the kubelet sets its status. Once this is the fate of
    /// all nodes, deleting a pod only marks it, until the kubelet removes it ([`Command::Remove`]).
    Pending,
    /// Running, never ready.
    NotReady,
    /// `ImagePullBackOff` with this message.
    ImagePull {
        /// As the kubelet words it.
        message: String,
    },
    /// `CrashLoopBackOff`.
    CrashLoop {
        /// The container's termination message.
        message: String,
        /// Its exit code.
        exit_code: i32,
    },
    /// Never made: a `FailedCreate` event says why.
    Refused {
        /// `exceeded quota: …`
        message: String,
    },
}

/// Requests that go wrong, the next `times` that match.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Only this method.
    #[serde(default)]
    pub method: Option<String>,
    /// Only paths (with the query) that contain this.
    pub path: String,
    /// How many.
    pub times: u32,
    /// How.
    pub how: Wrong,
}

/// How a request goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Wrong {
    /// A `Status` of 500.
    Internal {
        /// Its text.
        message: String,
    },
    /// 429 with `Retry-After`.
    TooMany {
        /// Seconds.
        retry_after: u32,
    },
    /// The connection breaks off.
    Drop,
    /// Answered late.
    Delay {
        /// By so many milliseconds.
        ms: u64,
    },
}

/// How port-forwards reach a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reach {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// A file of the network namespace whose 127.0.0.1 is dialled; none is the server's own.
    pub netns: Option<PathBuf>,
    /// Dial this port instead of the one asked for.
    pub port: Option<u16>,
    /// Answers towards the client no faster than this.
    pub bytes_per_second: Option<u64>,
    /// Ends sessions after so many bytes towards the client.
    pub end_after: Option<u64>,
    /// How they end then.
    pub end: End,
    /// Only the first so many sessions end; none is all of them.
    pub times: Option<u32>,
}

/// How a session ends before its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// Close 1000, as after a normal end: the pod's process died.
    #[default]
    Close,
    /// EOF without a close frame: the API server died.
    Drop,
    /// Nothing more comes: a peer that vanished.
    Stall,
}

/// What `Command`s have set.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) users: HashMap<String, User>,
    pub(crate) anonymous: User,
    pub(crate) bookmarks: Duration,
    pub(crate) faults: Vec<Fault>,
    pub(crate) fate: Fate,
    pub(crate) fates: HashMap<String, Fate>,
    pub(crate) reach: HashMap<(String, String), Reach>,
    pub(crate) dead_nodes: Vec<String>,
    pub(crate) requests: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            users: HashMap::new(),
            anonymous: User::admin(),
            bookmarks: Duration::from_mins(1),
            faults: Vec::new(),
            fate: Fate::Ready,
            fates: HashMap::new(),
            reach: HashMap::new(),
            dead_nodes: Vec::new(),
            requests: Vec::new(),
        }
    }
}

impl Settings {
    /// The fault that hits this request, once counted.
    pub(crate) fn fault(&mut self, method: &str, path: &str) -> Option<Wrong> {
        let fault = self.faults.iter_mut().find(|fault| {
            fault.times > 0
                && path.contains(&fault.path)
                && fault.method.as_deref().is_none_or(|only| only == method)
        })?;
        fault.times -= 1;
        Some(fault.how.clone())
    }

    pub(crate) fn fate_on(&self, node: &str) -> &Fate {
        self.fates.get(node).unwrap_or(&self.fate)
    }

    /// How to reach a pod now; a fault that has hit often enough is left out.
    pub(crate) fn reach(&mut self, namespace: &str, pod: &str) -> Reach {
        let Some(reach) = self.reach.get_mut(&(namespace.to_owned(), pod.to_owned())) else {
            return Reach::default();
        };
        let mut now = reach.clone();
        match &mut reach.times {
            Some(0) => now.end_after = None,
            Some(times) => *times -= 1,
            None => {}
        }
        now
    }
}
