"""Observe, plan, apply, verify: runs the knobs' steps against a real VM and says what became of them."""
