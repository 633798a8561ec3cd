"""Runs this checkout's tests in a host in a box; `scripts/box` calls it."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import tomllib
from pathlib import Path

from ringfence.errors import RingfenceError
from ringfence.lab.box.image import ensure_box_image
from ringfence.lab.box.rdt import Rdt
from ringfence.lab.box.run import INITS, SYSTEMD, BoxSpec, run
from ringfence.lab.box.wheels import ensure_wheels
from ringfence.lab.image import ensure_image

TOP = Path(__file__).parents[1]
TEST_PACKAGES = ("pytest", "pytest-asyncio")
COPIED = ("src", "tests", "benchmarks", "scripts", "pyproject.toml", "README.md", "docs")

# Bytecode of the checkout goes to /cache, where the next run finds it; that of all else to the saved disk.
_ENVIRONMENT = """\
export PYTHONPATH=/checkout/src:/opt PYTHONPYCACHEPREFIX=/var/cache/pyc RINGFENCE_IN_A_BOX=1
"""
_PREPARE = """\
mkdir -p /var/cache/pyc /checkout
ln -sfn /cache/pyc /var/cache/pyc/checkout
cat >/tmp/test_warm.py <<'END'
import asyncio, json, subprocess

async def test_warm(tmp_path):
    await asyncio.sleep(0)
END
cd /tmp && PYTHONPATH=/opt python3 -m pytest -q -p no:cacheprovider -o asyncio_mode=auto \\
    -o asyncio_default_fixture_loop_scope=function test_warm.py || exit
for name in $(cd /opt && ls -d */ | tr -d /); do
    case $name in *.*|*-*|bin|__pycache__) continue ;; esac
    python3 -c "import $name" 2>/dev/null
done
true
"""
# The image of the lab's guests, as if it had been made there.
_NESTED = """\
export RINGFENCE_NESTED=1
mkdir -p /root/.cache/ringfence/ && cp -r /share/lab /root/.cache/ringfence/ || exit 99
"""
_RUN = """\
mkdir -p /cache/pyc /checkout && cd /checkout && tar xf /share/tree.tar || exit 99
"""


def main() -> int:
    options = parsed(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        image = ensure_box_image(options.suite, say)
        wheels = ensure_wheels(image.python, requirements(), say)
        processor = Rdt() if options.rdt else None
        spec = BoxSpec(options.suite, options.init, (wheels,), _ENVIRONMENT + _PREPARE, processor=processor)
        with tempfile.TemporaryDirectory(prefix="ringfence-box-") as share:
            pack(Path(share) / "tree.tar")
            if options.nested:
                guest = ensure_image(say)
                shutil.copytree(guest.kernel.parent, Path(share) / "lab" / guest.key)
            script = (
                _ENVIRONMENT
                + (_NESTED if options.nested else "")
                + _RUN
                + (options.shell or pytest_line(options.arguments))
                + "\n"
            )
            status = asyncio.run(
                run(spec, script, share=Path(share), output=passed_on, say=say, timeout_s=options.timeout)
            )
    except RingfenceError as error:
        say(f"error: {error}\nhint: {error.hint}")
        return 100 + error.exit_code  # pytest's own reach to 5
    say(f"the box ended with {status} after {time.monotonic() - began:.1f} s")
    return status


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/box", description="This checkout's tests in a host in a box.")
    parser.add_argument("--suite", default="bookworm", help="of this distribution (default: %(default)s)")
    parser.add_argument("--init", default=SYSTEMD, choices=tuple(INITS), help="default: %(default)s")
    parser.add_argument(
        "--rdt", action="store_true", help="with a processor that has cache and bandwidth allocation"
    )
    parser.add_argument(
        "--nested", action="store_true", help="with the tests that run a QEMU in there; minutes long"
    )
    parser.add_argument("--shell", default="", metavar="COMMANDS", help="run these instead of pytest")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("arguments", nargs="*", metavar="-- PYTEST ARGUMENTS", help="default: tests/kernel")
    return parser.parse_args(arguments)


def pytest_line(arguments: list[str]) -> str:
    chosen = arguments if any("tests/" in word for word in arguments) else [*arguments, "tests/kernel"]
    return shlex.join(["exec", "python3", "-m", "pytest", "-p", "no:cacheprovider", *chosen])


def requirements() -> list[str]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for needed in project["optional-dependencies"]["dev"]:
        if needed.split(">")[0].strip() in TEST_PACKAGES:
            wanted.append(needed)
    return wanted


def pack(out: Path) -> None:
    """Copy the checkout's files, with the times that their bytecode is checked by."""
    with tarfile.open(out, "w") as archive:
        for name in COPIED:
            archive.add(TOP / name, name, filter=lambda entry: None if "__pycache__" in entry.name else entry)


def passed_on(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(line: str) -> None:
    sys.stderr.write(f"== {line}\n")


if __name__ == "__main__":
    sys.exit(main())
