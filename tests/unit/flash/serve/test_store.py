"""The directory of a served SSD, and what a person writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.errors import UsageError
from ringfence.flash.presets import VD16
from ringfence.flash.serve import spec
from ringfence.flash.serve.store import Store
from ringfence.flash.vssd import Isolation

SIZE = 4 << 20


def test_a_directory_is_one_devices_and_one_servers(tmp_path: Path) -> None:
    store = Store(tmp_path, {"device": 1}, {"a": SIZE})
    with pytest.raises(UsageError, match="being served"):
        Store(tmp_path, {"device": 1}, {"a": SIZE})
    store.close()
    with pytest.raises(UsageError, match="another device"):
        Store(tmp_path, {"device": 2}, {"a": SIZE})
    (tmp_path / "pool-0.json").write_text("{")
    again = Store(tmp_path, {"device": 1}, {"a": SIZE})
    assert again.load(2) == [None, None]
    again.close()


def test_virtual_ssds_are_read_from_text() -> None:
    found = spec.parse("db,size=1GiB,channels=0-1+4", VD16)
    assert (found.name, found.capacity_bytes, found.channels, len(found.dies)) == ("db", 1 << 30, (0, 1, 4), 12)
    assert found.isolation is Isolation.CHANNEL
    assert spec.parse("db,size=1MiB,channels=0,chips=0-1", VD16).isolation is Isolation.DIE
    for text in ("", "db", "db,size=1", "db,size=1MiB,x=1", "../x,size=1MiB", "db,size=1MiB,channels=16"):
        with pytest.raises(UsageError):
            spec.parse(text, VD16)
    for text in ("channels=0-99999999", "channels=a", "chips=4", "isolation=some"):
        with pytest.raises(UsageError):
            spec.parse(f"db,size=1MiB,{text}", VD16)
    whole = spec.parse("b,size=1MiB", VD16)
    with pytest.raises(UsageError, match="own"):
        spec.check([found, whole])
    with pytest.raises(UsageError):
        spec.check([found, found])
