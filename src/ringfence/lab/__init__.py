"""Real test guests made from distribution packages, and the workloads that measure inside them."""
