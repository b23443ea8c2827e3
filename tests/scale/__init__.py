"""What needs more than one process, and libraries that `make test` does without: `make test-scale`."""
