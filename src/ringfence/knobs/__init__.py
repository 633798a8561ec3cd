"""PURE: one file per resource. A knob yields requests as data; only the engine's driver sends them."""
