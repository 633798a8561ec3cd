"""The simulator that is fast: what `ringfence.flash.reference` does, on arrays of integers, compiled by numba.

It does the same things in the same order, to the nanosecond; tests hold the two against each other. Names are the
reference's; a structure there is a row of an array here, and a list is chained through a column NEXT.

    fields.py    which column of which array is what
    lists.py     the heap of events, and chains
    flash.py     mapping.py and collector.py
    dies.py      back_end.py
    host.py      link.py and device.py
    lending.py   lending.py
    run.py       fills the arrays, runs, and reads the result out of them

Only the outermost function is kept on disk by numba; its name there depends on the text of all these files,
because numba itself would not notice that one of the others had changed.
"""
