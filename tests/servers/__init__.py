"""Real object storage servers for tests, examples and benchmarks: each a context manager, none needs pytest."""
