"""The SSD as shared hardware: what isolates tenants on it, and what that costs. PURE, but for `serve`, an edge."""
