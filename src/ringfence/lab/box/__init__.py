"""A host in a box: a Debian machine with its full kernel, cgroup v2 and systemd, to prove isolation on."""
