"""Files, through the page cache and past it."""
