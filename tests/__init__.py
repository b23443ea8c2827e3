"""The tests. They run against real servers on loopback, see `tests.servers`."""
