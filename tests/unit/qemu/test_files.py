import pytest

from ringfence.errors import HostError, UsageError
from ringfence.qemu import files


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_kinds_are_kept_apart(runtime):
    assert files.files_of("lab", "a").directory == runtime / "ringfence" / "lab" / "a"
    assert files.files_of("vm", "a").directory == runtime / "ringfence" / "vm" / "a"
    assert not (runtime / "ringfence" / "vm" / "a").exists()


def test_every_file_is_another(runtime):
    found = files.files_of("vm", "a")
    paths = {found.qmp.path, found.qmp_tools.path, found.agent.path, str(found.pidfile), str(found.serial)}
    assert len(paths) == 5


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", ".hidden", "a b", "a,b", "a\n"])
def test_names_that_would_leave_the_directory_or_confuse_qemu_are_refused(runtime, name):
    with pytest.raises(UsageError, match="cannot be a VM's name"):
        files.files_of("vm", name)


def test_a_name_too_long_for_a_socket_is_refused(runtime):
    with pytest.raises(HostError, match="too long for a socket"):
        files.files_of("vm", "a" * 100)
