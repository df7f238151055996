//! The configuration that has the container runtime connect pods: Debian's and everybody's standard plugins, a bridge with addresses of the
//! node's own part and host ports. Whoever wants another CNI puts a file in that sorts before this one, or does not ask for it.

use anyhow::Context;
use serde_json::json;
use std::path::Path;

/// Its file.
const FILE: &str = "50-pod-network.conflist";

/// The bridge and what is on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// The size of packets, if it is not the kernel's choice.
    pub mtu: Option<u32>,
}

/// The configuration for a node's parts of the pods' addresses. Addresses are not masqueraded by the bridge, which knows only the node's own part.
pub fn conflist(bridge: &Bridge, cidrs: &[String]) -> String {
    let ranges: Vec<_> = cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let any = |cidr: &String| json!({"dst": if cidr.contains(':') { "::/0" } else { "0.0.0.0/0" }});
    let routes: Vec<_> = cidrs.iter().map(any).collect();
    let mut plugin = json!({
        "type": "bridge", "bridge": bridge.name, "isGateway": true, "ipMasq": false, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
    });
    if let Some(mtu) = bridge.mtu {
        plugin["mtu"] = mtu.into();
    }
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    format!("{:#}\n", json!({"cniVersion": "0.4.0", "name": "pod-network", "plugins": [plugin, portmap]}))
}

/// Writes it, whole or not at all, unless it is there already.
pub async fn write(directory: &Path, text: &str) -> anyhow::Result<()> {
    let path = directory.join(FILE);
    if tokio::fs::read_to_string(&path).await.is_ok_and(|there| there == text) {
        return Ok(());
    }
    let part = directory.join(format!(".{FILE}"));
    let written = async {
        tokio::fs::create_dir_all(directory).await?;
        tokio::fs::write(&part, text).await?;
        tokio::fs::rename(&part, &path).await
    };
    written.await.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_is_replaced_when_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let bridge = Bridge { name: "cni0".into(), mtu: Some(1400) };
        for cidrs in [vec!["10.244.1.0/24".to_owned()], vec!["10.244.2.0/24".to_owned(), "fd00:2::/64".to_owned()]] {
            write(directory.path(), &conflist(&bridge, &cidrs)).await.unwrap();
            let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            let plugin = &read["plugins"][0];
            assert_eq!((plugin["mtu"].as_u64(), plugin["ipam"]["ranges"][0][0]["subnet"].as_str()), (Some(1400), Some(cidrs[0].as_str())));
            assert_eq!(plugin["ipam"]["routes"].as_array().unwrap().len(), cidrs.len());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
