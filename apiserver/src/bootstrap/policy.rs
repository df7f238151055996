//! The roles and bindings that every cluster starts with, as one table: what they say is upstream's v1.36
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`), because clients, add-ons and other components rely on them.

use crate::authorization::rbac::GROUP;
use k8s_openapi::{
    api::rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use std::collections::BTreeMap;

/// A rule, as lists of words. `core` stands for the core group.
#[derive(Clone, Copy)]
struct Rule {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    urls: &'static str,
}

const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    Rule { verbs, groups, resources, names: "", urls: "" }
}

const fn named(verbs: &'static str, groups: &'static str, resources: &'static str, names: &'static str) -> Rule {
    Rule { verbs, groups, resources, names, urls: "" }
}

const fn urls(urls: &'static str) -> Rule {
    Rule { verbs: "get", groups: "", resources: "", names: "", urls }
}

const READ: &str = "get list watch";
const WRITE: &str = "create update patch delete deletecollection";
const READ_WRITE: &str = "get list watch create update patch delete deletecollection";
const EVENTS: Rule = on("create update patch", "core events.k8s.io", "events");

/// A cluster role: its name, to which roles it is aggregated, and its rules.
type Row = (&'static str, &'static str, &'static [Rule]);

const CLUSTER_ROLES: &[Row] = &[
    ("cluster-admin", "", &[on("*", "*", "*"), Rule { verbs: "*", ..urls("*") }]),
    ("system:discovery", "", &[urls("/livez /readyz /healthz /version /version/ /openapi /openapi/* /api /api/* /apis /apis/*")]),
    ("system:monitoring", "", &[urls("/metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/*")]),
    (
        "system:basic-user",
        "",
        &[
            on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            on("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    ("system:public-info-viewer", "", &[urls("/livez /readyz /healthz /version /version/")]),
    (
        "system:aggregate-to-admin",
        "admin",
        &[on("create", "authorization.k8s.io", "localsubjectaccessreviews"), on(READ_WRITE, GROUP, "roles rolebindings")],
    ),
    (
        "system:aggregate-to-edit",
        "edit",
        &[
            on(READ, "core", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
            on("impersonate", "core", "serviceaccounts"),
            on(WRITE, "core", "pods pods/attach pods/proxy pods/exec pods/portforward"),
            on("create", "core", "pods/eviction"),
            on(
                WRITE,
                "core",
                "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy persistentvolumeclaims configmaps secrets events",
            ),
            on("create", "core", "serviceaccounts/token"),
            on(
                WRITE,
                "apps",
                "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale",
            ),
            on(WRITE, "autoscaling", "horizontalpodautoscalers"),
            on(WRITE, "batch", "jobs cronjobs"),
            on(
                WRITE,
                "extensions",
                "daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale replicationcontrollers/scale networkpolicies",
            ),
            on(WRITE, "policy", "poddisruptionbudgets"),
            on(WRITE, "networking.k8s.io", "networkpolicies ingresses"),
            on(READ_WRITE, "coordination.k8s.io", "leases"),
            on(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
        ],
    ),
    (
        "system:aggregate-to-view",
        "view",
        &[
            on(
                READ,
                "core",
                "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps",
            ),
            on(
                READ,
                "core",
                "limitranges resourcequotas bindings events pods/status resourcequotas/status namespaces/status replicationcontrollers/status pods/log",
            ),
            on(READ, "core", "namespaces"),
            on(READ, "discovery.k8s.io", "endpointslices"),
            on(
                READ,
                "apps",
                "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale",
            ),
            on(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            on(READ, "batch", "jobs cronjobs cronjobs/status jobs/status"),
            on(
                READ,
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies",
            ),
            on(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
            on(READ, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
            on(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
        ],
    ),
    ("system:heapster", "", &[on(READ, "core", "events pods nodes namespaces"), on(READ, "extensions", "deployments")]),
    ("system:node", "", NODE_RULES),
    ("system:node-problem-detector", "", &[on("get", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS]),
    (
        "system:kubelet-api-admin",
        "",
        &[
            on(READ, "core", "nodes"),
            on("proxy", "core", "nodes"),
            on("*", "core", "nodes/proxy nodes/metrics nodes/stats nodes/log nodes/configz nodes/healthz nodes/pods nodes/checkpoint"),
        ],
    ),
    ("system:node-bootstrapper", "", &[on("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]),
    (
        "system:auth-delegator",
        "",
        &[on("create", "authentication.k8s.io", "tokenreviews"), on("create", "authorization.k8s.io", "subjectaccessreviews")],
    ),
    ("system:kube-aggregator", "", &[on(READ, "core", "services endpoints")]),
    (
        "system:kube-controller-manager",
        "",
        &[
            EVENTS,
            on("create", "coordination.k8s.io", "leases"),
            named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            on("create", "core", "secrets serviceaccounts"),
            on("delete", "core", "secrets"),
            on("get", "core", "namespaces secrets serviceaccounts configmaps"),
            on("update", "core", "secrets serviceaccounts"),
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on("list watch", "*", "*"),
            on("create", "core", "serviceaccounts/token"),
        ],
    ),
    ("system:kube-dns", "", &[on("list watch", "core", "endpoints services")]),
    (
        "system:persistent-volume-provisioner",
        "",
        &[
            on("get list watch create delete", "core", "persistentvolumes"),
            on("get list watch update", "core", "persistentvolumeclaims"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("watch", "core", "events"),
            EVENTS,
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "",
        &[on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "",
        &[on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    (
        "system:volume-scheduler",
        "",
        &[
            on("get list watch update patch", "core", "persistentvolumes"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("get list watch update patch", "core", "persistentvolumeclaims"),
        ],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        "",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        "",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        "",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    (
        "system:service-account-issuer-discovery",
        "",
        &[urls("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")],
    ),
    ("system:cluster-trust-bundle-discovery", "", &[on(READ, "certificates.k8s.io", "clustertrustbundles")]),
    (
        "system:node-proxier",
        "",
        &[
            on("list watch", "core", "services endpoints"),
            on(READ, "core", "nodes"),
            EVENTS,
            on("list watch", "discovery.k8s.io", "endpointslices"),
            on("list watch", "networking.k8s.io", "servicecidrs"),
        ],
    ),
    (
        "system:kube-scheduler",
        "",
        &[
            EVENTS,
            on("create", "coordination.k8s.io", "leases"),
            named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
            on("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leasecandidates"),
            on(READ, "core", "nodes"),
            on("get list watch delete", "core", "pods"),
            on("create", "core", "pods/binding bindings"),
            on("patch update", "core", "pods/status"),
            on(READ, "core", "services replicationcontrollers"),
            on(READ, "apps extensions", "replicasets"),
            on(READ, "apps", "statefulsets"),
            on(READ, "policy", "poddisruptionbudgets"),
            on(READ, "core", "persistentvolumeclaims persistentvolumes"),
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on(READ, "storage.k8s.io", "csinodes"),
            on(READ, "storage.k8s.io", "volumeattachments"),
            on(READ, "core", "namespaces"),
            on(READ, "storage.k8s.io", "csidrivers"),
            on(READ, "storage.k8s.io", "csistoragecapacities"),
            on(READ, "resource.k8s.io", "deviceclasses"),
            on("get list patch update watch", "resource.k8s.io", "resourceclaims"),
            on("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
            on("update", "core", "pods/finalizers"),
            on(READ, "resource.k8s.io", "resourceslices"),
            on("create delete", "resource.k8s.io", "resourceclaims"),
            on("patch update", "resource.k8s.io", "resourceclaims/binding"),
        ],
    ),
];

/// What the node authorizer allows every kubelet, too.
const NODE_RULES: &[Rule] = &[
    on("create", "authentication.k8s.io", "tokenreviews"),
    on("create", "authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews"),
    on(READ, "core", "services"),
    on("create get list watch", "core", "nodes"),
    on("update patch", "core", "nodes/status"),
    on("update patch", "core", "nodes"),
    EVENTS,
    on(READ, "core", "pods"),
    on("create delete", "core", "pods"),
    on("update patch", "core", "pods/status"),
    on("create", "core", "pods/eviction"),
    on(READ, "core", "secrets configmaps"),
    on("get", "core", "persistentvolumeclaims persistentvolumes"),
    on("get", "core", "endpoints"),
    on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    on("get create update patch delete", "coordination.k8s.io", "leases"),
    on("get", "storage.k8s.io", "volumeattachments"),
    on("create", "core", "serviceaccounts/token"),
    on("get update patch", "core", "persistentvolumeclaims/status"),
    on(READ, "storage.k8s.io", "csidrivers"),
    on("get create update patch delete", "storage.k8s.io", "csinodes"),
    on(READ, "node.k8s.io", "runtimeclasses"),
    on("get", "resource.k8s.io", "resourceclaims"),
    on("deletecollection", "resource.k8s.io", "resourceslices"),
    on("get", "core", "serviceaccounts"),
];

/// Roles that are the sum of others: a name, and to which role it is aggregated in turn.
const AGGREGATES: [(&str, &str); 3] = [("admin", ""), ("edit", "admin"), ("view", "edit")];

/// One role for each controller, `system:controller:NAME`, bound to the service account of that name in kube-system.
const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "attachdetach-controller",
        &[
            on("list watch", "core", "persistentvolumes persistentvolumeclaims"),
            on(READ, "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("list watch", "core", "pods"),
            EVENTS,
            on("get create delete list watch", "storage.k8s.io", "volumeattachments"),
            on(READ, "storage.k8s.io", "csidrivers"),
            on(READ, "storage.k8s.io", "csinodes"),
        ],
    ),
    ("clusterrole-aggregation-controller", &[on("escalate get list watch update patch", GROUP, "clusterroles")]),
    (
        "cronjob-controller",
        &[
            on("get list watch update", "batch", "cronjobs"),
            on("get list watch create update delete patch", "batch", "jobs"),
            on("update", "batch", "cronjobs/status"),
            on("update", "batch", "cronjobs/finalizers"),
            on("list watch delete", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            on(READ, "extensions apps", "daemonsets"),
            on("update", "extensions apps", "daemonsets/status"),
            on("update", "extensions apps", "daemonsets/finalizers"),
            on("list watch", "core", "nodes"),
            on("list watch create delete patch", "core", "pods"),
            on("create", "core", "pods/binding"),
            on("get list watch create delete update patch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            on("get list watch update", "extensions apps", "deployments"),
            on("update", "extensions apps", "deployments/status"),
            on("update", "extensions apps", "deployments/finalizers"),
            on("get list watch create update patch delete", "apps extensions", "replicasets"),
            on("get list watch update", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            on(READ, "extensions apps", "deployments"),
            on(READ, "apps extensions", "replicasets"),
            on(READ, "core", "replicationcontrollers"),
            on(READ, "policy", "poddisruptionbudgets"),
            on(READ, "apps", "statefulsets"),
            on("update", "policy", "poddisruptionbudgets/status"),
            on("patch update", "core", "pods/status"),
            on("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            on(READ, "core", "services pods"),
            on("get list watch create update delete", "core", "endpoints"),
            on("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            on(READ, "core", "services pods nodes"),
            on("update", "core", "services/finalizers"),
            on("get list watch create update delete", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            on(READ, "core", "services endpoints"),
            on("update", "core", "services/finalizers"),
            on("update", "core", "endpoints/finalizers"),
            on("get list watch create update delete", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            on("get list watch update patch", "core", "persistentvolumes"),
            on("update patch", "core", "persistentvolumeclaims/status"),
            on(READ, "core", "persistentvolumeclaims"),
            EVENTS,
            on("get", "core", "services"),
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            on(READ, "core", "pods"),
            on("update", "core", "pods/finalizers"),
            on("get list watch create", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            on(READ, "core", "pods"),
            on("update", "core", "pods/finalizers"),
            on("get list watch create delete", "resource.k8s.io", "resourceclaims"),
            on("update patch", "resource.k8s.io", "resourceclaims resourceclaims/binding resourceclaims/status"),
            on("update patch", "core", "pods/status"),
            EVENTS,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            on("get list watch delete", "core", "pods"),
            on("update patch", "core", "pods/status"),
            on(READ, "resource.k8s.io", "resourceclaims"),
            on(READ, "resource.k8s.io", "resourceslices"),
            on(READ, "resource.k8s.io", "deviceclasses"),
            on(READ, "resource.k8s.io", "devicetaintrules"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[on("get list watch patch update delete", "*", "*"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            on(READ, "autoscaling", "horizontalpodautoscalers"),
            on("update", "autoscaling", "horizontalpodautoscalers/status"),
            on("get update", "*", "*/scale"),
            on("list watch", "core", "pods"),
            on("list watch", "metrics.k8s.io", "pods"),
            on(READ, "custom.metrics.k8s.io", "*"),
            on(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            on("get list watch update patch", "batch", "jobs"),
            on("update", "batch", "jobs/status"),
            on("update", "batch", "jobs/finalizers"),
            on("list watch create delete patch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            on("get list watch delete", "core", "namespaces"),
            on("update", "core", "namespaces/finalize namespaces/status"),
            on("get list watch delete deletecollection", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            on("get list watch update delete patch", "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("patch update", "core", "pods/status"),
            on("list watch get delete", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            on("get list watch update create delete", "core", "persistentvolumes"),
            on("update", "core", "persistentvolumes/status"),
            on("get list watch update", "core", "persistentvolumeclaims"),
            on("update", "core", "persistentvolumeclaims/status"),
            on("list watch get create delete", "core", "pods"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("list watch", "core", "nodes"),
            EVENTS,
            on("watch", "core", "events"),
            on("get", "core", "services"),
        ],
    ),
    ("pod-garbage-collector", &[on("list watch delete", "core", "pods"), on(READ, "core", "nodes"), on("patch", "core", "pods/status")]),
    (
        "replicaset-controller",
        &[
            on("get list watch update", "apps extensions", "replicasets"),
            on("update", "apps extensions", "replicasets/status"),
            on("update", "apps extensions", "replicasets/finalizers"),
            on("list watch patch create delete", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            on("get list watch update", "core", "replicationcontrollers"),
            on("update", "core", "replicationcontrollers/status"),
            on("update", "core", "replicationcontrollers/finalizers"),
            on("list watch patch create delete", "core", "pods"),
            EVENTS,
        ],
    ),
    ("resourcequota-controller", &[on("list watch", "*", "*"), on("update", "core", "resourcequotas/status"), EVENTS]),
    ("route-controller", &[on("list watch", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS]),
    ("service-account-controller", &[on("create", "core", "serviceaccounts"), EVENTS]),
    (
        "service-controller",
        &[on(READ, "core", "services"), on("patch update", "core", "services/status"), on("list watch", "core", "nodes"), EVENTS],
    ),
    (
        "service-cidrs-controller",
        &[
            on("get list watch patch update", "networking.k8s.io", "servicecidrs"),
            on("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
            on("patch update", "networking.k8s.io", "servicecidrs/status"),
            on(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            on("list watch", "core", "pods"),
            on(READ, "apps", "statefulsets"),
            on("update", "apps", "statefulsets/status"),
            on("update", "apps", "statefulsets/finalizers"),
            on("get create delete update patch", "core", "pods"),
            on("get create delete update patch list watch", "apps", "controllerrevisions"),
            on("get create list watch", "core", "persistentvolumeclaims"),
            on("update delete", "core", "persistentvolumeclaims"),
            on("update", "core", "pods/finalizers"),
            EVENTS,
        ],
    ),
    ("ttl-controller", &[on("update patch list watch", "core", "nodes"), EVENTS]),
    (
        "certificate-controller",
        &[
            on("get list watch delete", "certificates.k8s.io", "certificatesigningrequests"),
            on("update", "certificates.k8s.io", "certificatesigningrequests/status certificatesigningrequests/approval"),
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/legacy-unknown kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving",
            ),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    ("podcertificaterequestcleaner", &[on("get list watch delete", "certificates.k8s.io", "podcertificaterequests")]),
    ("pvc-protection-controller", &[on("get list watch update", "core", "persistentvolumeclaims"), on(READ, "core", "pods"), EVENTS]),
    ("pv-protection-controller", &[on("get list watch update", "core", "persistentvolumes"), EVENTS]),
    (
        "volumeattributesclass-protection-controller",
        &[
            on(READ, "core", "persistentvolumeclaims"),
            on(READ, "core", "persistentvolumes"),
            on("get list watch update", "storage.k8s.io", "volumeattributesclasses"),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[on("get list watch delete", "batch", "jobs"), EVENTS]),
    ("root-ca-cert-publisher", &[on("create update", "core", "configmaps"), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            on(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            on("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            named("get", "core", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            on("patch delete", "core", "secrets"),
        ],
    ),
    (
        "selinux-warning-controller",
        &[
            EVENTS,
            on(READ, "core", "persistentvolumes"),
            on(READ, "core", "persistentvolumeclaims"),
            on(READ, "core", "pods"),
            on(READ, "storage.k8s.io", "csidrivers"),
        ],
    ),
];

/// Which cluster roles are bound to whom; `user:NAME`, `group:NAME` or `account:NAMESPACE/NAME`.
const CLUSTER_ROLE_BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["group:system:masters"]),
    ("system:monitoring", &["group:system:monitoring"]),
    ("system:discovery", &["group:system:authenticated"]),
    ("system:basic-user", &["group:system:authenticated"]),
    ("system:public-info-viewer", &["group:system:authenticated", "group:system:unauthenticated"]),
    ("system:node-proxier", &["user:system:kube-proxy"]),
    ("system:kube-controller-manager", &["user:system:kube-controller-manager"]),
    ("system:kube-dns", &["account:kube-system/kube-dns"]),
    ("system:kube-scheduler", &["user:system:kube-scheduler"]),
    ("system:volume-scheduler", &["user:system:kube-scheduler"]),
    ("system:node", &[]),
    ("system:service-account-issuer-discovery", &["group:system:serviceaccounts"]),
    ("system:cluster-trust-bundle-discovery", &["group:system:serviceaccounts"]),
];

/// What kubeadm binds in every cluster it makes: the administrators of admin.conf, and nodes that join with a bootstrap token. Name, role, subjects.
const KUBEADM_BINDINGS: &[(&str, &str, &[&str])] = &[
    ("kubeadm:cluster-admins", "cluster-admin", &["group:kubeadm:cluster-admins"]),
    ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", &["group:system:bootstrappers:kubeadm:default-node-token"]),
    (
        "kubeadm:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["group:system:bootstrappers:kubeadm:default-node-token"],
    ),
    (
        "kubeadm:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["group:system:nodes"],
    ),
];

/// Roles of single namespaces, each bound under its own name: namespace, name, rules, subjects. A second binding to a role has no rules.
const ROLES: &[(&str, &str, &[Rule])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &[named(READ, "core", "configmaps", "extension-apiserver-authentication")],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &[on(READ, "core", "secrets")]),
    ("kube-system", "system:controller:cloud-provider", &[on("create get list watch", "core", "configmaps")]),
    ("kube-system", "system:controller:token-cleaner", &[on("get list watch delete", "core", "secrets"), EVENTS]),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[on("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-controller-manager")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[on("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-scheduler")],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[on(READ, "core", "configmaps"), named("update", "core", "configmaps", "cluster-info"), EVENTS],
    ),
];

/// Bindings of those roles: namespace, name, role, subjects.
const ROLE_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["user:system:kube-controller-manager", "account:kube-system/kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["user:system:kube-scheduler", "account:kube-system/kube-scheduler"],
    ),
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["user:system:kube-controller-manager", "user:system:kube-scheduler"],
    ),
    ("kube-system", "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", &["account:kube-system/bootstrap-signer"]),
    ("kube-system", "system:controller:cloud-provider", "system:controller:cloud-provider", &["account:kube-system/cloud-provider"]),
    ("kube-system", "system:controller:token-cleaner", "system:controller:token-cleaner", &["account:kube-system/token-cleaner"]),
    ("kube-public", "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", &["account:kube-system/bootstrap-signer"]),
];

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text.split(' ').filter(|w| !w.is_empty()).map(|w| if w == "core" { "" } else { w }.to_owned()).collect();
    words.sort();
    words
}

fn some(words: Vec<String>) -> Option<Vec<String>> {
    (!words.is_empty()).then_some(words)
}

fn policy(rule: &Rule) -> PolicyRule {
    PolicyRule {
        verbs: words(rule.verbs),
        api_groups: some(words(rule.groups)),
        resources: some(words(rule.resources)),
        resource_names: some(words(rule.names)),
        non_resource_urls: some(words(rule.urls)),
    }
}

fn policies(rules: &[Rule]) -> Vec<PolicyRule> {
    rules.iter().map(policy).collect()
}

fn subject(text: &&str) -> Subject {
    let (kind, name) = text.split_once(':').expect("the table's subjects have a kind");
    let group = Some(GROUP.to_owned());
    match kind {
        "user" => Subject { kind: "User".into(), api_group: group, name: name.into(), namespace: None },
        "group" => Subject { kind: "Group".into(), api_group: group, name: name.into(), namespace: None },
        _ => {
            let (namespace, name) = name.split_once('/').expect("the table's accounts have a namespace");
            Subject { kind: "ServiceAccount".into(), api_group: None, name: name.into(), namespace: Some(namespace.into()) }
        }
    }
}

fn metadata(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        labels: Some([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())].into()),
        annotations: Some([("rbac.authorization.kubernetes.io/autoupdate".to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn aggregate_label(to: &str) -> BTreeMap<String, String> {
    [(format!("rbac.authorization.k8s.io/aggregate-to-{to}"), "true".to_owned())].into()
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: name.into() }
}

/// The rules of `system:node`.
pub fn node_rules() -> Vec<PolicyRule> {
    policies(NODE_RULES)
}

/// All cluster roles.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let with_label = |name: &str, to: &str| {
        let mut metadata = metadata(name, "");
        if !to.is_empty() {
            metadata.labels.get_or_insert_default().extend(aggregate_label(to));
        }
        metadata
    };
    let plain = CLUSTER_ROLES.iter().map(|(name, to, rules)| ClusterRole {
        metadata: with_label(name, to),
        rules: Some(policies(rules)),
        aggregation_rule: None,
    });
    // Their rules are the aggregation controller's to fill in.
    let aggregates = AGGREGATES.iter().map(|(name, to)| {
        let selector = LabelSelector { match_labels: Some(aggregate_label(name)), match_expressions: None };
        ClusterRole {
            metadata: with_label(name, to),
            rules: None,
            aggregation_rule: Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) }),
        }
    });
    let controllers = CONTROLLERS.iter().map(|(name, rules)| ClusterRole {
        metadata: metadata(&format!("system:controller:{name}"), ""),
        rules: Some(policies(rules)),
        aggregation_rule: None,
    });
    plain.chain(aggregates).chain(controllers).collect()
}

/// All cluster role bindings.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let binding = |name: &str, role: &str, subjects: Vec<Subject>| ClusterRoleBinding {
        metadata: metadata(name, ""),
        role_ref: role_ref("ClusterRole", role),
        subjects: (!subjects.is_empty()).then_some(subjects),
    };
    let plain = CLUSTER_ROLE_BINDINGS.iter().map(|(role, subjects)| binding(role, role, subjects.iter().map(subject).collect()));
    let controllers = CONTROLLERS.iter().map(|(name, _)| {
        let role = format!("system:controller:{name}");
        binding(&role, &role, vec![subject(&format!("account:kube-system/{name}").as_str())])
    });
    let kubeadm = KUBEADM_BINDINGS.iter().map(|(name, role, subjects)| {
        let mut made = binding(name, role, subjects.iter().map(subject).collect());
        (made.metadata.labels, made.metadata.annotations) = (None, None); // They are the administrator's to change or delete.
        made
    });
    plain.chain(controllers).chain(kubeadm).collect()
}

/// All roles of single namespaces.
pub fn roles() -> Vec<Role> {
    ROLES.iter().map(|(namespace, name, rules)| Role { metadata: metadata(name, namespace), rules: Some(policies(rules)) }).collect()
}

/// All bindings of single namespaces.
pub fn role_bindings() -> Vec<RoleBinding> {
    let binding = |(namespace, name, role, subjects): &(&str, &str, &str, &[&str])| RoleBinding {
        metadata: metadata(name, namespace),
        role_ref: role_ref("Role", role),
        subjects: Some(subjects.iter().map(subject).collect()),
    };
    ROLE_BINDINGS.iter().map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_binding_has_its_role_and_no_name_stands_twice() {
        let roles = cluster_roles();
        let names: BTreeSet<_> = roles.iter().map(|r| r.metadata.name.clone().unwrap()).collect();
        assert_eq!(names.len(), roles.len());
        let bindings = cluster_role_bindings();
        assert!(bindings.iter().all(|b| names.contains(&b.role_ref.name)));
        assert_eq!(bindings.iter().map(|b| b.metadata.name.clone()).collect::<BTreeSet<_>>().len(), bindings.len());
        for binding in role_bindings() {
            let same =
                |r: &Role| r.metadata.namespace == binding.metadata.namespace && r.metadata.name.as_ref() == Some(&binding.role_ref.name);
            assert!(roles_contain(same), "{:?}", binding.metadata.name);
        }
    }

    fn roles_contain(same: impl Fn(&Role) -> bool) -> bool {
        roles().iter().any(same)
    }

    /// What a real v1.36.2 server answered.
    #[test]
    fn roles_are_upstreams() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/answers/auth/bootstrap-roles.json");
        let answers: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let rules = |name: &str| {
            let role = cluster_roles().into_iter().find(|r| r.metadata.name.as_deref() == Some(name)).unwrap();
            serde_json::to_value(role.rules).unwrap()
        };
        for (step, name) in [(0, "view"), (2, "system:node"), (3, "system:kube-scheduler")] {
            let want = &answers[step]["body"];
            let got = rules(name);
            assert_eq!(got.as_array().map(Vec::len), want.as_array().map(Vec::len), "{name}");
            for (i, rule) in want.as_array().into_iter().flatten().enumerate() {
                assert_eq!(&got[i], rule, "{name} rule {i}");
            }
        }
    }
}
