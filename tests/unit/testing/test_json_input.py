"""The cutting of a stream into JSON values."""

from __future__ import annotations

from json import JSONDecodeError

import pytest

from ringfence.testing.json_input import JsonStream


@pytest.mark.parametrize(
    ("pieces", "values"),
    [
        ([b'{"a": 1}'], [{"a": 1}]),
        ([b'{"a": 1}{"b": 2}\n 3\n'], [{"a": 1}, {"b": 2}, 3]),
        ([b'{"a"', b": ", b'"x', b'y"}'], [{"a": "xy"}]),
        ([b'{"a":\n', b"1}"], [{"a": 1}]),
        ([b'{"a": "\\', b'""}\n'], [{"a": '"'}]),
        ([b"\r\n \n"], []),
        ([b'{"a": '], []),
        ([b'nonsense\n{"a": 1}'], ["error", {"a": 1}]),
        ([b'{"a": nonsense', b'}\n{"a": 1}'], ["error", {"a": 1}]),
    ],
)
def test_values_that_are_complete(pieces, values):
    stream = JsonStream()
    found = [value for piece in pieces for value in stream.feed(piece)]
    assert ["error" if isinstance(value, JSONDecodeError) else value for value in found] == values
