//! The names that upstream's `--controllers` takes (`NewControllerDescriptors` and its aliases), and for each that has no row in the table, why.

/// Every name of upstream's with the older name that it also goes by, if any.
pub const UPSTREAM: &[(&str, &str)] = &[
    ("serviceaccount-token-controller", "serviceaccount-token"),
    ("endpoints-controller", "endpoint"),
    ("endpointslice-controller", "endpointslice"),
    ("endpointslice-mirroring-controller", "endpointslicemirroring"),
    ("replicationcontroller-controller", "replicationcontroller"),
    ("pod-garbage-collector-controller", "podgc"),
    ("resourcequota-controller", "resourcequota"),
    ("namespace-controller", "namespace"),
    ("serviceaccount-controller", "serviceaccount"),
    ("garbage-collector-controller", "garbagecollector"),
    ("daemonset-controller", "daemonset"),
    ("job-controller", "job"),
    ("deployment-controller", "deployment"),
    ("replicaset-controller", "replicaset"),
    ("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling"),
    ("disruption-controller", "disruption"),
    ("statefulset-controller", "statefulset"),
    ("cronjob-controller", "cronjob"),
    ("certificatesigningrequest-signing-controller", "csrsigning"),
    ("certificatesigningrequest-approving-controller", "csrapproving"),
    ("certificatesigningrequest-cleaner-controller", "csrcleaner"),
    ("podcertificaterequest-cleaner-controller", ""),
    ("ttl-controller", "ttl"),
    ("bootstrap-signer-controller", "bootstrapsigner"),
    ("token-cleaner-controller", "tokencleaner"),
    ("node-ipam-controller", "nodeipam"),
    ("node-lifecycle-controller", "nodelifecycle"),
    ("taint-eviction-controller", ""),
    ("device-taint-eviction-controller", ""),
    ("service-lb-controller", "service"),
    ("node-route-controller", "route"),
    ("cloud-node-lifecycle-controller", "cloud-node-lifecycle"),
    ("persistentvolume-binder-controller", "persistentvolume-binder"),
    ("persistentvolume-attach-detach-controller", "attachdetach"),
    ("persistentvolume-expander-controller", "persistentvolume-expander"),
    ("persistentvolumeclaim-protection-controller", "pvc-protection"),
    ("persistentvolume-protection-controller", "pv-protection"),
    ("volumeattributesclass-protection-controller", ""),
    ("clusterrole-aggregation-controller", "clusterrole-aggregation"),
    ("ttl-after-finished-controller", "ttl-after-finished"),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher"),
    ("kube-apiserver-serving-clustertrustbundle-publisher-controller", ""),
    ("ephemeral-volume-controller", "ephemeral-volume"),
    ("storageversion-garbage-collector-controller", "storage-version-gc"),
    ("resourceclaim-controller", "resource-claim-controller"),
    ("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner"),
    ("validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status"),
    ("service-cidr-controller", ""),
    ("storage-version-migrator-controller", ""),
    ("selinux-warning-controller", ""),
];

/// Those that are not built, and why. Naming one in `--controllers` is no error and starts nothing.
pub const ABSENT: &[(&str, &str)] = &[
    ("podcertificaterequest-cleaner-controller", "the kind is not served: its feature is off by default upstream"),
    ("node-route-controller", "there is no cloud whose routes could be set"),
    ("cloud-node-lifecycle-controller", "there is no cloud that could say that a machine is gone"),
    ("kube-apiserver-serving-clustertrustbundle-publisher-controller", "the kind is not served: its feature is off by default upstream"),
    ("storageversion-garbage-collector-controller", "the kind is not served: its feature is off by default upstream"),
    ("validatingadmissionpolicy-status-controller", "the apiserver checks expressions for their types"),
    ("storage-version-migrator-controller", "the kind is not served: its feature is off by default upstream"),
    ("selinux-warning-controller", "off by default upstream; no kubelet of ours mounts with SELinux labels"),
];

/// Those that `*` does not start (upstream: `IsDisabledByDefault`).
pub const OFF_BY_DEFAULT: &[&str] = &["bootstrap-signer-controller", "token-cleaner-controller", "selinux-warning-controller"];

/// The name of today for a name of any time, if it is one.
pub fn canonical(name: &str) -> Option<&'static str> {
    let upstream = UPSTREAM.iter().find(|(now, before)| *now == name || (!before.is_empty() && *before == name)).map(|(now, _)| *now);
    upstream.or_else(|| super::TABLE.iter().map(|row| row.name).find(|known| *known == name))
}

/// Whether every entry of `--controllers` means something; if not, all that do not are told, as upstream tells several errors.
pub fn known(list: &[String]) -> Result<(), String> {
    let names = list.iter().map(|entry| entry.strip_prefix('-').unwrap_or(entry)).filter(|name| *name != "*" && canonical(name).is_none());
    let unknown: Vec<String> = names.map(|name| format!("{name:?} is not in the list of known controllers")).collect();
    match unknown.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_either_built_or_absent_for_a_reason() {
        let built: BTreeSet<_> = super::super::TABLE.iter().map(|row| row.name).collect();
        let absent: BTreeSet<_> = ABSENT.iter().map(|(name, _)| *name).collect();
        assert_eq!(built.intersection(&absent).collect::<Vec<_>>(), Vec::<&&str>::new(), "built: strike them from ABSENT");
        let known: BTreeSet<_> = UPSTREAM.iter().map(|(name, _)| *name).collect();
        assert!(absent.is_subset(&known));
        let missing: Vec<_> = known.iter().filter(|name| !built.contains(*name) && !absent.contains(*name)).collect();
        assert!(missing.is_empty(), "neither built nor absent: {missing:?}");
    }

    #[test]
    fn whatever_is_not_known_is_told() {
        let of = |list: &str| known(&list.split(',').map(str::to_owned).collect::<Vec<_>>());
        let one = "\"x\" is not in the list of known controllers";
        for (list, expected) in [
            ("*,-ttl,podgc", Ok(())),
            ("*,-x", Err(one.to_owned())),
            ("x,ttl,", Err(format!("[{one}, \"\" is not in the list of known controllers]"))),
        ] {
            assert_eq!(of(list), expected, "{list}");
        }
    }

    #[test]
    fn old_names_still_count() {
        for (name, expected) in
            [("podgc", Some("pod-garbage-collector-controller")), ("ttl-controller", Some("ttl-controller")), ("", None), ("x", None)]
        {
            assert_eq!(canonical(name), expected);
        }
    }
}
