//! The field order of the Go structs that kubectl itself makes and prints with `-o json`.
//!
//! Objects from the server are maps there and print sorted; only what a generator built (`create`, `run`, `expose`, `config view`)
//! prints in struct order. So this lists the fields generators set and no others.

/// For the object under a key, its fields in order. The first row is the object itself and whatever is not named below.
const ORDER: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "kind",
            "apiVersion",
            "metadata",
            "preferences",
            "clusters",
            "users",
            "contexts",
            "current-context",
            "name",
            "spec",
            "immutable",
            "data",
            "stringData",
            "binaryData",
            "type",
            "rules",
            "aggregationRule",
            "subjects",
            "roleRef",
            "value",
            "globalDefault",
            "description",
            "preemptionPolicy",
            "secrets",
            "imagePullSecrets",
            "items",
            "status",
        ],
    ),
    (
        "metadata",
        &[
            "name",
            "generateName",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "labels",
            "annotations",
            "ownerReferences",
            "finalizers",
        ],
    ),
    (
        "spec",
        &[
            "parallelism",
            "completions",
            "minAvailable",
            "maxUnavailable",
            "schedule",
            "timeZone",
            "jobTemplate",
            "replicas",
            "ingressClassName",
            "defaultBackend",
            "tls",
            "rules",
            "volumes",
            "initContainers",
            "containers",
            "hard",
            "scopes",
            "restartPolicy",
            "ports",
            "selector",
            "clusterIP",
            "type",
            "externalIPs",
            "sessionAffinity",
            "externalName",
            "loadBalancerIP",
            "template",
            "strategy",
            "nodeSelector",
            "dnsPolicy",
            "serviceAccountName",
            "nodeName",
            "finalizers",
            "audiences",
            "expirationSeconds",
            "boundObjectRef",
        ],
    ),
    (
        "containers",
        &[
            "name",
            "image",
            "command",
            "args",
            "workingDir",
            "ports",
            "envFrom",
            "env",
            "resources",
            "volumeMounts",
            "imagePullPolicy",
            "securityContext",
            "stdin",
            "stdinOnce",
            "tty",
        ],
    ),
    ("ports", &["name", "protocol", "port", "containerPort", "targetPort", "nodePort"]),
    ("env", &["name", "value", "valueFrom"]),
    ("status", &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods", "loadBalancer"]),
    ("subjects", &["kind", "apiGroup", "name", "namespace"]),
    ("roleRef", &["apiGroup", "kind", "name"]),
    ("rules", &["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs", "host", "http"]),
    ("ownerReferences", &["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"]),
    ("paths", &["path", "pathType", "backend"]),
    ("service", &["name", "port"]),
    ("tls", &["hosts", "secretName"]),
    (
        "cluster",
        &["server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority", "certificate-authority-data", "proxy-url"],
    ),
    ("context", &["cluster", "user", "namespace"]),
    (
        "user",
        &[
            "client-certificate",
            "client-certificate-data",
            "client-key",
            "client-key-data",
            "token",
            "tokenFile",
            "username",
            "password",
            "auth-provider",
            "exec",
        ],
    ),
    ("exec", &["command", "args", "env", "apiVersion", "interactiveMode", "provideClusterInfo"]),
    ("clientVersion", &["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"]),
    ("serverVersion", &["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"]),
];

/// Objects under these keys are Go maps, whose keys are sorted.
const MAPS: &[&str] =
    &["labels", "annotations", "data", "stringData", "binaryData", "matchLabels", "hard", "limits", "requests", "nodeSelector", "selector"];

/// Where `key` stands among the fields of the object under `parent`; the same number for keys that sort by name.
pub fn rank(parent: &str, key: &str) -> usize {
    if MAPS.contains(&parent) {
        return 0;
    }
    let row = ORDER.iter().find(|(p, _)| *p == parent).map_or(ORDER[0].1, |(_, fields)| fields);
    row.iter().position(|f| *f == key).unwrap_or(usize::MAX)
}
