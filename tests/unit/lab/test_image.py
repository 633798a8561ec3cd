import fcntl
import json
import os
import queue
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringfence.errors import HostError
from ringfence.lab import image
from ringfence.lab.packages import Package

PACKAGES = (Package("fio", "3.33-3"), Package("libc6", "2.36"))


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ringfence" / "lab"


@pytest.fixture
def builder(monkeypatch):
    """Packages that come from nowhere and an image of empty files; gives the list of what was fetched."""
    fetched = []

    def fetch(work, say):
        fetched.append(work)
        (work / "root" / "boot").mkdir(parents=True)
        (work / "root" / "boot" / "vmlinuz-6").write_bytes(b"kernel")
        return PACKAGES

    monkeypatch.setattr(image, "_fetch", fetch)
    monkeypatch.setattr(image.rootfs, "write_initramfs", lambda tree, out: out.write_bytes(b"initrd"))
    monkeypatch.setattr(image.rootfs, "stage_tools", lambda tree, into: into.mkdir())
    monkeypatch.setattr(image.rootfs, "write_ext4", lambda content, out: out.write_bytes(b"tools"))
    return fetched


def test_an_image_is_made_once_and_then_found(base, builder):
    made = image.ensure_image(lambda _: None)
    assert made.kernel.read_bytes() == b"kernel"
    assert made.key == image.image_key(PACKAGES)
    assert json.loads((made.kernel.parent / "manifest.json").read_text()) == ["fio=3.33-3", "libc6=2.36"]
    assert image.ensure_image(lambda _: None) == made
    assert len(builder) == 1
    assert sorted(path.name for path in base.iterdir()) == [made.key, "lock"]


def test_an_interrupted_build_leaves_nothing_and_the_next_one_succeeds(base, builder, monkeypatch):
    def interrupted(content, out):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image.rootfs, "write_ext4", interrupted)
        with pytest.raises(KeyboardInterrupt):
            image.ensure_image(lambda _: None)
    assert [path.name for path in base.iterdir()] == ["lock"]
    assert image.ensure_image(lambda _: None).tools.read_bytes() == b"tools"


def test_what_a_killed_builder_left_is_removed(base, builder):
    (base / "build-1").mkdir(parents=True)
    (base / "build-1" / "half").touch()
    image.ensure_image(lambda _: None)
    assert not (base / "build-1").exists()


def test_another_recipe_makes_another_image(base, builder, monkeypatch, tmp_path):
    first = image.ensure_image(lambda _: None)
    init = tmp_path / "init.sh"
    init.write_text("#!/bin/busybox sh\n")
    monkeypatch.setattr(image.rootfs, "INIT", init)
    assert image.ensure_image(lambda _: None).key != first.key
    assert len(builder) == 2


def test_of_several_images_the_newest_is_taken(base, builder):
    made = image.ensure_image(lambda _: None)
    older = base / f"{image.recipe()}-older"
    older.mkdir()
    (older / "manifest.json").touch()
    os.utime(older / "manifest.json", (1, 1))
    assert image.ensure_image(lambda _: None) == made


def test_the_key_changes_with_a_version_and_not_with_the_order():
    assert image.image_key(PACKAGES) == image.image_key(PACKAGES[::-1])
    assert image.image_key(PACKAGES) != image.image_key((Package("fio", "3.34"), PACKAGES[1]))


def test_a_cache_that_cannot_be_written_is_the_hosts_fault(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(HostError, match="cannot build the guest image") as caught:
        image.ensure_image(lambda _: None)
    assert caught.value.errno


def test_of_two_builders_one_waits_and_finds_what_the_other_made(base, builder):
    base.mkdir(parents=True)
    said = queue.Queue()
    with (base / "lock").open("w") as other, ThreadPoolExecutor() as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = pool.submit(image.ensure_image, said.put)
        assert "waiting" in said.get(timeout=10)
        made = image._build(base, lambda _: None)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert waiting.result(timeout=10) == made
    assert len(builder) == 1
