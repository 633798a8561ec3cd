"""Fixtures of the tests against a real kernel; what they share besides stands in kernel_bench, too."""

from __future__ import annotations

from kernel_bench import _as_root, change, groups, hierarchies, no_left_overs, start

__all__ = ["_as_root", "change", "groups", "hierarchies", "no_left_overs", "start"]
