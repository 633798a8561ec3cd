"""The knob `memory`: how much memory a guest may use, by whichever of QEMU's mechanisms does it best.

`ledger` is what there is and `read` reads it; `choose` says what moves it, and why; `balloon`, `virtio_mem` and
`dimm` each move it their way; `online` sees that the guest uses what was plugged; `carry` puts them together;
`knob` is the contract.
"""

from ringfence.knobs.memory.knob import MemoryTarget
from ringfence.knobs.memory.ledger import UNKNOWN_STAT

__all__ = ["UNKNOWN_STAT", "MemoryTarget"]
