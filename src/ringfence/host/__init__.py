"""The edge to the kernel: each reader is rooted at a path, so that a directory can stand in for it in a test."""
