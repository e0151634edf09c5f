"""The manifests in ``cluster/`` are what their readers (KubeRay, Ray's launcher, Slurm) accept."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.helpers.paths import ROOT

CLUSTER = ROOT / "cluster"
KUBERAY = ("kuberay-job", "kuberay-cluster")
SCHEMA = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def cluster_of(manifest: Any) -> Any:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_manifests_fit_the_schema(name: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(read(name))


def test_the_schema_refuses_a_misspelt_field() -> None:
    manifest = read("kuberay-cluster")
    manifest["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.Draft202012Validator(SCHEMA).validate(manifest)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_require_a_token_and_share_storage(name: str) -> None:
    cluster = cluster_of(read(name))
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["rayVersion"] == version("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert set(mounts) <= volumes
        assert {"/shared", "/dev/shm"} <= set(mounts.values())
    assert cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]


def test_the_job_and_the_cluster_are_the_same_nodes() -> None:
    assert cluster_of(read("kuberay-job")) == read("kuberay-cluster")["spec"]


def test_rays_launcher_takes_the_cluster_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = read("ray-cluster")
    jsonschema.validate(config, schema)
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
