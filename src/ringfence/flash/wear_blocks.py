"""Even wear inside one channel or die: continuous, since all of it is one tenant's.

Two habits together (both are old; e.g. Chang, "On efficient wear leveling for large-scale flash-memory storage
systems", SAC'07): write to the least worn free block, and now and then move data that lies still off a young
block, so that it is worn too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple


class Move(NamedTuple):
    """Data that lies still goes from the block that is least worn to the free one that is most worn."""

    source: int
    target: int


def take_free(free: Collection[int], erases: Sequence[int]) -> int:
    """The free block to write next: the least worn, the lowest number among equals. There must be one."""
    return min(free, key=lambda block: (erases[block], block))


def cold_move(
    free: Collection[int], erases: Sequence[int], spread: int, *, movable: Callable[[int], bool] = lambda _: True
) -> Move | None:
    """What to move when the blocks' wear has drifted apart by more than `spread` erases; None when it has not.

    One move costs one erase of the young block. Called after each erase, it holds max - min at about `spread`.

    :param movable: whether a block that is not free is written to its end, and may be moved.
    """
    if not free:
        return None
    target = max(free, key=lambda block: (erases[block], -block))
    used = [block for block in range(len(erases)) if block not in free and movable(block)]
    if not used:
        return None
    source = min(used, key=lambda block: (erases[block], block))
    return Move(source, target) if erases[target] - erases[source] > spread else None
