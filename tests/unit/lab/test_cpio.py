"""The archive is read back by a reader written from the format's description, not from the writer."""

import stat

from ringfence.lab.cpio import CpioWriter


def test_every_kind_of_entry_is_read_back(read_newc):
    writer = CpioWriter()
    writer.directory("dev")
    writer.character_device("dev/console", 5, 1)
    writer.file("init", b"#!/bin/sh\n", 0o755)
    writer.symlink("sh", "bin/busybox")
    directory, console, init, link = read_newc(writer.finish())
    assert (directory.name, directory.mode, directory.links) == ("dev", stat.S_IFDIR | 0o755, 2)
    assert (console.name, console.mode, console.device) == ("dev/console", stat.S_IFCHR | 0o600, (5, 1))
    assert (init.name, init.mode, init.content) == ("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n")
    assert (link.mode, link.content) == (stat.S_IFLNK | 0o777, b"bin/busybox")


def test_parents_come_first_and_once(read_newc):
    writer = CpioWriter()
    writer.file("lib/modules/a.ko", b"a")
    writer.file("lib/modules/b.ko", b"b")
    names = [entry.name for entry in read_newc(writer.finish())]
    assert names == ["lib", "lib/modules", "lib/modules/a.ko", "lib/modules/b.ko"]


def test_contents_of_every_length_stay_aligned(read_newc):
    writer = CpioWriter()
    for length in range(9):
        writer.file("n" * (length + 1), b"x" * length)
    assert [entry.content for entry in read_newc(writer.finish())] == [b"x" * length for length in range(9)]


def test_inodes_differ_so_that_no_file_is_taken_for_a_hard_link(read_newc):
    writer = CpioWriter()
    for name in "abc":
        writer.file(name, b"")
    assert len({entry.inode for entry in read_newc(writer.finish())}) == 3


def test_the_same_entries_give_the_same_bytes():
    def archive() -> bytes:
        writer = CpioWriter()
        writer.file("etc/passwd", b"root")
        return writer.finish()

    assert archive() == archive()
