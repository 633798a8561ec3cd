"""The schema and the client of the daemon's control socket: all that front ends need to know of it."""
