//! The last known pods on disk: what an agent goes by that starts while the API server is away.
//!
//! A UID's namespace, name and host network never change, so an old file can name a pod that is gone,
//! but never give a pod the wrong name: what is excluded stays excluded.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PodFacts;
use crate::kept;

const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    node: &'a str,
    pods: &'a [PodFacts],
}

#[derive(Deserialize)]
struct Found {
    version: u32,
    node: String,
    pods: Vec<Value>,
}

/// Replaces the file in one step.
pub(super) fn write(path: &Path, node: &str, pods: &[PodFacts]) -> io::Result<()> {
    kept::write(path, &Written { version: VERSION, node, pods })
}

/// What an earlier agent of this node wrote; none when there is no file. A pod that cannot be read is
/// left out.
pub(super) fn read(path: &Path, node: &str) -> io::Result<Option<Vec<PodFacts>>> {
    let Some(found) = kept::read::<Found>(path)? else { return Ok(None) };
    if (found.version, found.node.as_str()) != (VERSION, node) {
        let told = format!("written by version {} on node {}", found.version, found.node);
        return Err(io::Error::new(io::ErrorKind::InvalidData, told));
    }
    let pods = found.pods.into_iter().filter_map(|pod| serde_json::from_value(pod).ok());
    Ok(Some(pods.collect()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pod(uid: &str) -> PodFacts {
        let labels = [("app".to_owned(), "cart".to_owned())].into();
        let pod_ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into();
        PodFacts { uid: uid.into(), name: "cart-1".into(), labels, pod_ips, ..PodFacts::default() }
    }

    #[test]
    fn what_was_written_is_read_by_the_same_node_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pods.json");
        assert_eq!(read(&path, "n1").unwrap(), None);
        write(&path, "n1", &[pod("a")]).unwrap();
        write(&path, "n1", &[pod("a"), pod("b")]).unwrap();
        assert_eq!(read(&path, "n1").unwrap(), Some(vec![pod("a"), pod("b")]));
        let error = read(&path, "n2").unwrap_err().to_string();
        assert_eq!(error, "written by version 1 on node n1");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_or_foreign_file_is_an_error_and_an_odd_pod_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pods.json");
        write(&path, "n1", &[pod("a")]).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path, "n1").is_err(), "{length} bytes");
        }
        let odd = r#"{"version":1,"node":"n1","later":{},"pods":[7,{"uid":"a"},
            {"uid":"b","namespace":"shop","name":"cart-1","later":true}]}"#;
        fs::write(&path, odd).unwrap();
        let pods = read(&path, "n1").unwrap().unwrap();
        assert_eq!(pods.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
