"""This library and its peers, side by side on one machine: `make bench`."""
