"""PURE: closed loops. Observations in, wanted values and a reason out; no clock, no I/O."""
