"""apt is played by a script that serves one package, whose files are laid out as Debian does."""

import os
import subprocess

import pytest

from ringfence.errors import HostError, UsageError
from ringfence.lab import qemus
from ringfence.lab.qemus import ensure_qemu
from ringfence.units import MIB

APT_GET = """\
#!/bin/sh
echo "$@" >>{tmp}/calls
case "$*" in
    *"--print-uris update")
        for source in other/dists/whatever mirror/debian/dists/stable third/party/dists/testing; do
            echo "'scheme://$source/InRelease' name 0 "
        done ;;
    *update) [ {reachable} = yes ] || {{ echo "E: no Release file" >&2; exit 100; }}
             mkdir -p state/lists; touch state/lists/some_Packages ;;
    *"-s install"*) echo "Inst qemu-system-x86 (1:10.0.13 Debian:13/stable [amd64])" ;;
    *--print-uris*) echo "'scheme://host/q.deb' q.deb 1000 SHA256:x" ;;
    *download*) touch q.deb ;;
esac
"""
DPKG_DEB = """\
#!/bin/sh
[ "$1" = -x ] || exit 1
mkdir -p "$3"/usr/lib/x86_64-linux-gnu "$3"/usr/bin "$3"/usr/share/doc/qemu
[ {loader} = yes ] || exit 0
cat >"$3"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 <<'EOF'
#!/bin/sh
echo "$QEMU_MODULE_DIR"
for word in "$@"; do echo "$word"; done
EOF
chmod +x "$3"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
touch "$3"/usr/bin/qemu-system-x86_64
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    monkeypatch.setattr(qemus, "_NEEDED_BYTES", MIB)
    return tmp_path / "a cache" / "ringfence" / "lab" / "qemu"


@pytest.fixture
def archive(tmp_path, monkeypatch, cache):
    """Gives a function that puts the scripts in place."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def install(*, reachable: str = "yes", loader: str = "yes") -> None:
        for name, text in (("apt-get", APT_GET), ("dpkg-deb", DPKG_DEB)):
            (programs / name).write_text(text.format(tmp=tmp_path, reachable=reachable, loader=loader))
            (programs / name).chmod(0o755)

    install()
    return install


def test_the_program_runs_through_its_own_loader_with_its_own_firmware(archive, cache):
    program = ensure_qemu("trixie", print)
    said = subprocess.run([program, "-m", "a b"], capture_output=True, text=True, check=True).stdout.splitlines()
    root = program.parent / "root"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    assert program.parent.parent == cache
    assert said[0] == str(libraries / "qemu")
    assert said[1:4] == [
        "--library-path",
        f"{libraries}:{root}/lib/x86_64-linux-gnu",
        f"{root}/usr/bin/{program.name}",
    ]
    assert f"{root}/usr/share/seabios" in said
    assert said[-2:] == ["-m", "a b"]


def test_it_is_fetched_once(archive, tmp_path, cache):
    said = []
    first = ensure_qemu("trixie", said.append)
    assert any("QEMU 1:10.0.13" in line for line in said)
    calls = (tmp_path / "calls").read_text()
    assert ensure_qemu("trixie", said.append) == first
    assert (tmp_path / "calls").read_text() == calls
    assert sorted(path.name for path in cache.iterdir()) == ["lock", first.parent.name]
    assert not (first.parent / "root/usr/share/doc").exists()


def test_the_suite_is_taken_from_the_hosts_own_mirror(archive, tmp_path, cache, monkeypatch):
    sources = []
    monkeypatch.setattr(
        qemus,
        "unpack",
        lambda debs, root: sources.append(next(cache.glob("build-*/apt/sources.list")).read_text()),
    )
    with pytest.raises(HostError, match="hold no qemu"):
        ensure_qemu("trixie", print)
    first, second = sources[0].splitlines()
    assert first.endswith("] scheme://mirror/debian trixie main")
    assert second.endswith("] scheme://third/party trixie main")
    assert "check-valid-until=no" in first


@pytest.mark.parametrize("broken", [{"reachable": "no"}, {"loader": "no"}])
def test_what_fails_leaves_the_cache_as_it_was(archive, cache, broken):
    archive(**broken)
    with pytest.raises(HostError) as caught:
        ensure_qemu("trixie", print)
    assert caught.value.hint
    assert [path.name for path in cache.iterdir()] == ["lock"]
    archive()
    assert ensure_qemu("trixie", print).exists()


def test_a_suite_that_the_mirror_has_not_is_named(archive):
    archive(reachable="no")
    with pytest.raises(HostError, match=r"lists of nosuch: E: no Release file") as caught:
        ensure_qemu("nosuch", print)
    assert "nosuch" in caught.value.hint


def test_a_host_without_sources_of_its_own_says_so(archive, tmp_path):
    (tmp_path / "programs" / "apt-get").write_text("#!/bin/sh\n")
    with pytest.raises(HostError, match="name no mirror that could have trixie"):
        ensure_qemu("trixie", print)


@pytest.mark.parametrize("name", ["", "*", "../up", "a b", "a\nb"])
def test_what_is_no_name_is_refused_before_anything_is_done(archive, cache, name):
    with pytest.raises(UsageError, match="no name of a suite"):
        ensure_qemu(name, print)
    assert not cache.exists()
