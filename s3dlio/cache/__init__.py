"""A local copy of what was read: `Config(cache=)`. See :mod:`.store`."""
