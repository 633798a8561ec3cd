import pytest

from ringfence.errors import HostError
from ringfence.lab import elf


def test_a_program_names_its_libraries_in_order(make_program):
    assert elf.needed_libraries(make_program("libm.so.6", "libc.so.6")) == ("libm.so.6", "libc.so.6")


def test_a_static_program_needs_none(make_program):
    assert elf.needed_libraries(make_program()) == ()


def test_modules_are_named_as_lsmod_names_them(make_module):
    assert elf.needed_modules(make_module("virtio-ring", "virtio")) == ("virtio_ring", "virtio")


def test_a_module_without_dependencies(make_module):
    assert elf.needed_modules(make_module()) == ()


def test_a_program_is_no_module(make_program):
    with pytest.raises(HostError, match="not a kernel module"):
        elf.needed_modules(make_program("libc.so.6"))


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x02" + bytes(100)]
)
def test_other_files_are_refused(data):
    with pytest.raises(HostError, match="not a 64-bit little-endian ELF"):
        elf.needed_libraries(data)


def test_a_truncated_file_is_refused(make_program):
    with pytest.raises(HostError, match="truncated"):
        elf.needed_libraries(make_program("libc.so.6")[:-100])
