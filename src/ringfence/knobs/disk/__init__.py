"""PURE: what can be limited and read of a disk: names, own limits, shared pools, latencies."""
