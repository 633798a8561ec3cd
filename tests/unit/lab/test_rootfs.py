import gzip
import lzma

import pytest

from ringfence.errors import HostError
from ringfence.lab.rootfs import OPTIONAL_MODULES, REQUIRED_MODULES, Tree, stage_tools, write_initramfs

VERSION = "6.1.0-1-cloud-amd64"


@pytest.fixture
def root(tmp_path, make_module, make_program):
    """Unpacked packages in miniature: all modules are single files, ext4 is built in."""
    modules = tmp_path / "lib/modules" / VERSION
    (modules / "kernel/drivers").mkdir(parents=True)
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    for name in REQUIRED_MODULES:
        if name != "ext4":
            (modules / f"kernel/drivers/{name}.ko").write_bytes(make_module())
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / f"vmlinuz-{VERSION}").write_bytes(b"kernel")
    for directory in ("bin", "usr/sbin", "usr/bin", "lib64", "usr/lib/x86_64-linux-gnu"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "bin/busybox").write_bytes(b"busybox")
    (tmp_path / "usr/sbin/qemu-ga").write_bytes(make_program("libc.so.6"))
    for tool in ("fio", "stress-ng"):
        (tmp_path / "usr/bin" / tool).write_bytes(make_program("libaio.so.1"))
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    (libraries / "libc.so.6").write_bytes(make_program("ld-linux-x86-64.so.2"))
    (libraries / "libaio.so.1.0.2").write_bytes(make_program("libc.so.6"))
    (libraries / "libaio.so.1").symlink_to("libaio.so.1.0.2")
    (libraries / "ld-linux-x86-64.so.2").write_bytes(make_program())
    return tmp_path


def module_path(root, name):
    return root / "lib/modules" / VERSION / "kernel/drivers" / name


def test_a_module_comes_after_those_it_depends_on(root, make_module):
    module_path(root, "virtio_blk.ko").write_bytes(make_module("virtio", "virtio-ring"))
    module_path(root, "virtio.ko").write_bytes(make_module("virtio_ring"))
    module_path(root, "virtio_ring.ko").write_bytes(make_module())
    order = list(Tree(root).modules())
    assert order.index("virtio_ring") < order.index("virtio") < order.index("virtio_blk")
    assert len(order) == len(set(order))


def test_what_is_built_into_the_kernel_is_no_file(root):
    assert "ext4" not in Tree(root).modules()


def test_a_module_that_a_guest_needs_must_be_there(root):
    module_path(root, "virtio_console.ko").unlink()
    with pytest.raises(HostError, match="no module virtio_console"):
        Tree(root).modules()


def test_other_modules_are_taken_where_the_kernel_has_them(root, make_module):
    assert not set(OPTIONAL_MODULES) & set(Tree(root).modules())
    module_path(root, "nvme.ko").write_bytes(make_module())
    assert "nvme" in Tree(root).modules()


@pytest.mark.parametrize(("suffix", "compress"), [("xz", lzma.compress), ("gz", gzip.compress)])
def test_compressed_modules_are_decompressed(root, make_module, suffix, compress):
    content = make_module()
    module_path(root, "virtio_blk.ko").unlink()
    module_path(root, f"virtio_blk.ko.{suffix}").write_bytes(compress(content))
    assert Tree(root).modules()["virtio_blk"] == content


def test_libraries_are_followed_through_links_and_each_other(root):
    tree = Tree(root)
    assert set(tree.libraries(["usr/bin/fio"])) == {"libaio.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
    assert tree.libraries(["usr/bin/fio"])["libaio.so.1"] == tree.read("usr/lib/x86_64-linux-gnu/libaio.so.1.0.2")


def test_absolute_links_stay_inside_the_tree(root):
    (root / "usr/bin/link").symlink_to("/bin/busybox")
    assert Tree(root).read("usr/bin/link") == b"busybox"


def test_a_library_that_no_package_holds_is_named(root, make_program):
    (root / "usr/bin/fio").write_bytes(make_program("libnowhere.so.1"))
    with pytest.raises(HostError, match=r"libnowhere\.so\.1"):
        Tree(root).libraries(["usr/bin/fio"])


def test_the_initramfs_holds_what_init_uses(root, tmp_path, read_newc):
    write_initramfs(Tree(root), tmp_path / "initrd.gz")
    entries = {entry.name: entry for entry in read_newc(gzip.decompress((tmp_path / "initrd.gz").read_bytes()))}
    assert entries["init"].mode & 0o111
    assert entries["init"].content.startswith(b"#!/bin/busybox sh\n")
    assert entries["bin/busybox"].content == b"busybox"
    assert {"usr/sbin/qemu-ga", "lib/libc.so.6", "lib64/ld-linux-x86-64.so.2", "dev/console"} <= set(entries)
    order = entries["lib/modules/order"].content.decode().split()
    assert order
    assert all(f"lib/modules/{name}.ko" in entries for name in order)


def test_tools_find_their_libraries_by_a_wrapper(root, tmp_path):
    stage_tools(Tree(root), tmp_path / "tools")
    assert "LD_LIBRARY_PATH=/tools/lib exec /tools/libexec/fio" in (tmp_path / "tools/bin/fio").read_text()
    assert (tmp_path / "tools/libexec/fio").stat().st_mode & 0o111
    assert (tmp_path / "tools/lib/libaio.so.1").is_file()
