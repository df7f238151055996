"""What neither source knows, from upstream's types.go. A value of None takes a flag away; `pointer` and `type` replace those parts."""
OMIT_ZERO = {'pointer': ''}
OVERRIDES = {
    # Left out when zero, though not a pointer (since v1.34).
    'ObjectMeta.creationTimestamp': {'omitzero': True},
    # List map keys that have defaults, which the crate leaves out.
    'Container.ports': {'map': 'containerPort,protocol'},
    'EphemeralContainer.ports': {'map': 'containerPort,protocol'},
    'ServiceSpec.ports': {'map': 'port,protocol'},
    'PodSpec.topologySpreadConstraints': {'map': 'topologyKey,whenUnsatisfiable'},
    # Merged by strategic merge patch, atomic for server-side apply.
    'PodStatus.hostIPs': {'map': None},
    'JobStatus.conditions': {'map': None},
    'StatefulSetSpec.volumeClaimTemplates': {'map': None},
    # patchStrategy:"replace"
    'PodDisruptionBudgetSpec.selector': {'replace': True},
    # Keys that defaults stand for.
    'ContainerPort.protocol': {'default': 'TCP'},
    'ServicePort.protocol': {'default': 'TCP'},
    'LocalObjectReference.name': {'default': '""'},
    # apiextensions.k8s.io and apiregistration.k8s.io are not in the binary.
    'CustomResourceDefinitionSpec.preserveUnknownFields': OMIT_ZERO,
    'CustomResourceDefinitionVersion.deprecated': OMIT_ZERO,
    'CustomResourceDefinitionVersion.deprecationWarning': {'pointer': '*'},
    'CustomResourceColumnDefinition.priority': OMIT_ZERO,
    'CustomResourceDefinitionCondition.lastTransitionTime': {'pointer': ''},
    'CustomResourceDefinitionCondition.observedGeneration': OMIT_ZERO,
    'CustomResourceDefinitionStatus.observedGeneration': OMIT_ZERO,
    'CustomResourceDefinitionStatus.acceptedNames': {'pointer': ''},
    'CustomResourceDefinitionStatus.conditions': {'always': True},
    'CustomResourceDefinitionStatus.storedVersions': {'always': True},
    'CustomResourceSubresourceScale.labelSelectorPath': {'pointer': '*'},
    'JSONSchemaProps.exclusiveMaximum': OMIT_ZERO,
    'JSONSchemaProps.exclusiveMinimum': OMIT_ZERO,
    'JSONSchemaProps.uniqueItems': OMIT_ZERO,
    'JSONSchemaProps.nullable': OMIT_ZERO,
    'JSONSchemaProps.x-kubernetes-embedded-resource': OMIT_ZERO,
    'JSONSchemaProps.x-kubernetes-int-or-string': OMIT_ZERO,
    'APIServiceSpec.insecureSkipTLSVerify': OMIT_ZERO,
    'APIServiceCondition.lastTransitionTime': {'pointer': ''},
    'CustomResourceSubresources.status': {'pointer': '*'},
    'APIService.spec': {'pointer': ''},
    # Younger than the binary.
    'PodCondition.observedGeneration': OMIT_ZERO,
    'PodStatus.observedGeneration': OMIT_ZERO,
}
# +structType=atomic
ATOMIC_STRUCTS = set('''LabelSelector NodeSelector NodeSelectorTerm ObjectReference LocalObjectReference SecretKeySelector ConfigMapKeySelector FileKeySelector
ObjectFieldSelector ResourceFieldSelector SecretReference TypedLocalObjectReference TopologySelectorTerm ScopeSelector ScopedResourceSelectorRequirement
EndpointAddress EndpointPort RoleRef ParamRef ParamKind NamedRuleWithOperations MatchResources ServiceBackendPort'''.split())
