import errno
import os

import pytest

from ringfence.errors import HostError, UsageError
from ringfence.qemu.disks import parse_disk, takes_direct_io


@pytest.fixture
def image(tmp_path):
    def make(name: str, content: bytes = b"") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("a.raw", "", "raw"),
        ("a.img", "", "raw"),
        ("a.qcow2", "", "qcow2"),
        ("a.img", ",format=qcow2", "qcow2"),
        ("a.qcow2", ",format=raw", "raw"),
    ],
)
def test_the_format_is_said_by_the_user_or_the_name(image, name, option, expected):
    file = image(name)
    disk = parse_disk(file + option)
    assert (disk.file, disk.format) == (file, expected)


def test_what_a_guest_may_have_written_is_not_believed(image):
    file = image("a.img", b"QFI\xfb\0\0\0\3")
    with pytest.raises(UsageError, match="begins like a qcow2") as caught:
        parse_disk(file)
    assert f"{file},format=qcow2" in caught.value.hint
    assert parse_disk(f"{file},format=raw").format == "raw"


def test_an_unknown_format_is_refused(image):
    with pytest.raises(UsageError, match="vmdk"):
        parse_disk(image("a.img") + ",format=vmdk")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(HostError, match="No such file") as caught:
        parse_disk(str(tmp_path / "none.raw"))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("able", [True, False])
def test_the_page_cache_is_bypassed_where_the_file_system_can(image, monkeypatch, able):
    opened = []

    def fake_open(path, flags):
        opened.append(flags)
        if not able:
            raise OSError(errno.EINVAL, "Invalid argument")
        return os.dup(0)

    file = image("a.raw")
    monkeypatch.setattr(os, "open", fake_open)
    assert takes_direct_io(file) is able
    assert opened[0] & os.O_DIRECT
