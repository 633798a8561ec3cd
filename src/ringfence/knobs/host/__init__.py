"""PURE: what the kernel limits, for VMs and containers alike, by their cgroups."""
