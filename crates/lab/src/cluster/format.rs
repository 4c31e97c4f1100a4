//! Formats the nodes' storage: Kafka's own tool for the first node, copies of it for the others.
//!
//! The tool costs a Java start per node; what it writes differs between nodes
//! only in `meta.properties`.

use super::ClusterError;
use super::fetch::Kafka;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;
use std::path::Path;

const META: &str = "meta.properties";

/// Formats `log_dirs`, one per node, with the first node's `settings` file; `extra` goes to Kafka's tool.
pub(super) fn format(
    kafka: &Kafka,
    settings: &Path,
    log_dirs: &[impl AsRef<Path>],
    extra: &[String],
) -> Result<String, ClusterError> {
    let cluster_id = random_id();
    let output = kafka
        .tool("kafka.tools.StorageTool")
        .args(["format", "-t", &cluster_id, "-c"])
        .arg(settings)
        .args(extra)
        .output()
        .map_err(ClusterError::io("starting java"))?;
    if !output.status.success() {
        let printed = [output.stdout, output.stderr].concat();
        let output = String::from_utf8_lossy(&printed).trim().to_owned();
        return Err(ClusterError::Failed { doing: "formatting the storage of node 0".to_owned(), output });
    }
    let Some((first, others)) = log_dirs.split_first() else { return Ok(cluster_id) };
    for (index, other) in others.iter().enumerate() {
        copy(first.as_ref(), other.as_ref(), index + 2)?;
    }
    Ok(cluster_id)
}

fn copy(from: &Path, to: &Path, node_id: usize) -> Result<(), ClusterError> {
    for entry in fs::read_dir(from).map_err(ClusterError::file(from))? {
        let entry = entry.map_err(ClusterError::file(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == META {
            let meta = fs::read_to_string(&source).map_err(ClusterError::file(&source))?;
            fs::write(&target, for_node(&meta, node_id)).map_err(ClusterError::file(&target))?;
        } else if source.is_file() {
            fs::copy(&source, &target).map_err(ClusterError::file(&target))?;
        }
    }
    Ok(())
}

fn for_node(meta: &str, node_id: usize) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some(("node.id", _)) => format!("node.id={node_id}\n"),
        Some(("directory.id", _)) => format!("directory.id={}\n", random_id()),
        _ => format!("{line}\n"),
    };
    meta.lines().map(line).collect()
}

/// An id as Kafka writes its UUIDs.
fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(uuid::Uuid::now_v7().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_its_own_node_and_directory_and_the_same_cluster() {
        let meta =
            "#\n#Mon Nov 23\nnode.id=1\ndirectory.id=36KFWCEmvRZXW-3bRBkb2Q\nversion=1\ncluster.id=AAA\n";
        let copied = for_node(meta, 3);
        assert!(
            copied.contains("\nnode.id=3\n") && copied.contains("\nversion=1\ncluster.id=AAA\n"),
            "{copied}"
        );
        assert!(!copied.contains("36KFWCEmvRZXW") && copied.contains("\ndirectory.id="), "{copied}");
    }
}
