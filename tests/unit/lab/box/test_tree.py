"""What a box is made of, staged below a directory."""

from __future__ import annotations

from pathlib import Path

from ringfence.lab.box.tree import merge_usr


def test_what_stood_beside_usr_moves_into_it_and_stays_reachable(tmp_path: Path) -> None:
    for name, content in (
        ("lib/x/one.so", "one"),
        ("usr/lib/x/two.so", "two"),
        ("bin/sh", "new"),
        ("usr/bin/env", "env"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "bin/link").symlink_to("sh")
    merge_usr(tmp_path)
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert {path.name for path in (tmp_path / "lib/x").iterdir()} == {"one.so", "two.so"}
    assert (tmp_path / "bin/link").read_text() == "new"
    assert not (tmp_path / "lib64").is_symlink()


def test_a_merged_tree_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/sh").touch()
    merge_usr(tmp_path)
    assert (tmp_path / "bin").readlink() == Path("usr/bin")
    assert [path.name for path in (tmp_path / "usr/bin").iterdir()] == ["sh"]
