"""The daemon: the only place that starts long-lived tasks. It keeps fences true while VMs come and go."""
