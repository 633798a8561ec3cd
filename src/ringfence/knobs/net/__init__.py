"""PURE: the limits of a tenant's network interfaces."""
