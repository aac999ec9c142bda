"""Values that exercise every branch of the chart, by name."""

from __future__ import annotations

from tests.deploy.chart import FIXED, PROFILES, Values, merged, profile

RESOURCES = {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}}

EXTRAS: dict[str, Values] = {
    "everything": {
        "fullnameOverride": "sparse",
        "image": {
            "registry": "registry.example.org/lab",
            "tag": "1.2.3",
            "digests": {"service": "sha256:" + "a" * 64},
            "pullPolicy": "Always",
            "pullSecrets": ["registry"],
        },
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "lacuna.example.org",
            "tlsSecretName": "tls",
            "annotations": {"a": "b"},
        },
        "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["lacuna.example.org"]},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "metricsFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ],
            "apiServerCidrs": ["10.0.0.1/32"],
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 9000}]}],
        },
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "service": {"replicas": 3, "type": "LoadBalancer"},
        "ray": {"priorityClassName": "low"},
    },
    "bare": {
        "mlflow": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "ray": {"autoscaler": {"enabled": False}},
        "storage": {"pvc": {"existingClaim": "mine", "storageClassName": "fast"}},
        "database": {"bundled": {"storageClassName": "fast"}},
    },
    "minio": {
        "storage": {"kind": "url", "url": "s3://bucket", "s3Endpoint": "http://minio:9000"},
        "database": {
            "mode": "external",
            "external": {"secretName": "db", "podSelector": {"cnpg.io/cluster": "db"}, "namespace": "pg"},
        },
    },
    "kueue": {
        "pools": [
            {"name": "one", "accelerator": "cpu", "queue": "lab", "resources": RESOURCES},
            {"name": "two", "accelerator": "nvidia-l4", "queue": "lab", "resources": RESOURCES, "spot": True},
        ]
    },
    "slices": {
        "cloud": "gke",
        "pools": [
            {"name": "v4", "accelerator": "tpu-v4-podslice", "topology": "2x2x2", "resources": RESOURCES},
            {
                "name": "v5e",
                "accelerator": "tpu-v5-lite-podslice",
                "topology": "2x4",
                "chipsPerHost": 8,
                "minNodes": 1,
                "maxNodes": 2,
                "resources": RESOURCES,
                "image": "registry.example.org/own@sha256:" + "b" * 64,
                "priorityClassName": "high",
                "nodeSelector": {"lab": "a"},
                "tolerations": [{"key": "lab", "operator": "Exists"}],
            },
        ],
    },
}


def cases() -> dict[str, Values]:
    """Every profile, and every set above on the defaults."""
    return {name: merged(FIXED, profile(name)) for name in PROFILES} | {
        name: merged(FIXED, values) for name, values in EXTRAS.items()
    }
