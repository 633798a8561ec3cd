"""PURE: the shares of the processor's caches and of memory bandwidth, by the kernel's resctrl file system."""
