"""The simulator to be read: plain objects, one event at a time. `ringfence.flash.engine` does the same, compiled.

    link.py      the way to the host: messages, one at a time in each direction
    mapping.py   where pages are: open blocks, free blocks, stale pages
    collector.py garbage collection: which block, what it moves, when it is erased
    back_end.py  buses and dies: who is next
    device.py    requests of tenants, from doorbell to completion; lending

Times are those of `ringfence.flash.geometry`; ties are broken by who was scheduled first.
"""
