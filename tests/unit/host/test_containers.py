"""Containers of every engine, by the cgroups they are in and the files that name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ringfence.errors import UsageError
from ringfence.host import containers, placement
from ringfence.testing.fake_tree import FakeTree

A, B = "a" * 64, "b" * 64
SLICE = "/machine.slice"
KUBE = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"


@pytest.fixture
def tree(tmp_path: Path) -> FakeTree:
    return FakeTree(tmp_path)


@pytest.mark.parametrize(
    ("path", "engine", "id_", "group"),
    [
        (f"/machine.slice/libpod-{A}.scope/container", "podman", A, f"/machine.slice/libpod-{A}.scope/container"),
        (f"/libpod_parent/libpod-{A}", "podman", A, f"/libpod_parent/libpod-{A}"),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container/init.scope",
            "podman",
            A,
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
        ),
        (f"/system.slice/docker-{A}.scope", "docker", A, f"/system.slice/docker-{A}.scope"),
        (f"/docker/{A}", "docker", A, f"/docker/{A}"),
        (f"/docker/{A}/inner/group", "docker", A, f"/docker/{A}"),
        (f"{KUBE}/cri-containerd-{A}.scope", "kubernetes", A, f"{KUBE}/cri-containerd-{A}.scope"),
        (f"{KUBE}/crio-{A}.scope", "kubernetes", A, f"{KUBE}/crio-{A}.scope"),
        (f"/kubepods/burstable/pod12/{A}", "kubernetes", A, f"/kubepods/burstable/pod12/{A}"),
        (
            "/machine.slice/systemd-nspawn@deb.service/payload",
            "nspawn",
            "deb",
            "/machine.slice/systemd-nspawn@deb.service",
        ),
        (
            "/machine.slice/machine-deb\\x2d1.scope",
            "nspawn",
            "deb\\x2d1",
            "/machine.slice/machine-deb\\x2d1.scope",
        ),
        ("/lxc.payload.web/init.scope", "lxc", "web", "/lxc.payload.web"),
        ("/lxc.payload/web", "lxc", "web", "/lxc.payload/web"),
        ("/lxc/web", "lxc", "web", "/lxc/web"),
    ],
)
def test_an_engines_groups(tree: FakeTree, path: str, engine: str, id_: str, group: str) -> None:
    tree.process(50, "init", group=path)
    (found,) = containers.find_containers(str(tree.root))
    assert (found.engine, found.id, found.pid, found.cgroup) == (engine, id_, 50, group)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-0.slice/session-1.scope",
        f"/machine.slice/libpod-conmon-{A}.scope",
        "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator",
        "/lxc.monitor.web",
        "/system.slice/docker.service",
    ],
)
def test_what_is_no_container(tree: FakeTree, path: str) -> None:
    tree.process(50, "sh", group=path)
    assert containers.find_containers(str(tree.root)) == []


def test_names_of_podman_docker_and_kubernetes(tree: FakeTree) -> None:
    tree.process(50, "init", group=f"/libpod_parent/libpod-{A}")
    tree.process(51, "conmon")
    tree.write("proc/51/cmdline", "\0".join(("/usr/bin/conmon", "-c", A, "-u", A, "-n", "web")) + "\0")
    tree.process(60, "httpd", group=f"/docker/{B}")
    bundle = {"mounts": [{"destination": "/etc/hostname", "source": f"/data/containers/{B}/hostname"}]}
    tree.write(f"run/containerd/io.containerd.runtime.v2.task/moby/{B}/config.json", json.dumps(bundle))
    tree.write(f"data/containers/{B}/config.v2.json", json.dumps({"Name": "/shop"}))
    c = "c" * 64
    tree.process(70, "etcd", group=f"{KUBE}/cri-containerd-{c}.scope")
    names = {"io.kubernetes.cri.sandbox-name": "etcd-0", "io.kubernetes.cri.container-name": "etcd"}
    path = f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{c}/config.json"
    tree.write(path, json.dumps({"annotations": names}))
    found = containers.find_containers(str(tree.root))
    assert [container.name for container in found] == ["etcd-0/etcd", "shop", "web"]
    assert containers.find("container:shop", str(tree.root)).id == B
    assert containers.find(f"container:{A[:12]}", str(tree.root)).name == "web"


def test_a_container_of_runc_alone(tree: FakeTree) -> None:
    tree.process(80, "sleep", group="/mine")
    state = {"init_process_pid": 80, "cgroup_paths": {"cpu": "/sys/fs/cgroup/cpu/mine", "memory": "/x"}}
    tree.write("run/runc/mine/state.json", json.dumps(state))
    found = containers.find("container:mine", str(tree.root))
    assert (found.engine, found.pid, found.cgroup) == ("runc", 80, "/mine")


def test_names_that_are_not_there_or_not_the_only_one(tree: FakeTree) -> None:
    tree.process(50, "init", group="/lxc.payload.web1")
    with pytest.raises(UsageError, match="no container 'web'") as caught:
        containers.find("container:web", str(tree.root))
    assert "did you mean web1" in caught.value.hint
    tree.process(51, "init", group="/machine.slice/systemd-nspawn@web1.service")
    with pytest.raises(UsageError, match="2 containers are called 'web1'"):
        containers.find("container:web1", str(tree.root))


def test_any_group_by_its_path(tree: FakeTree) -> None:
    tree.process(50, "sh", group="/a b/c")
    for text in ("/a b/c", "a b/c/", "/sys/fs/cgroup/a b/c"):
        found = containers.find(f"cgroup:{text}", str(tree.root))
        assert (found.cgroup, found.pid) == ("/a b/c", 50)
    for text in ("/", "/sys/fs/cgroup", "/nowhere", "/a b/../..", ""):
        with pytest.raises(UsageError):
            containers.find(f"cgroup:{text}", str(tree.root))


def test_what_a_container_makes_in_its_group_is_not_taken_for_it(tree: FakeTree) -> None:
    tree.process(50, "init", group=f"/system.slice/docker-{A}.scope/init.scope")
    (found,) = containers.find_containers(str(tree.root))
    place = placement.of_group(str(tree.root), found.cgroup, found.pid, found.name)
    assert [(group.path, group.dedicated) for group in place.groups] == [(f"/system.slice/docker-{A}.scope", True)]
    assert place.pids == (50,)
