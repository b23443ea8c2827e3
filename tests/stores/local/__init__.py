"""Tests of the stores of files, on real file systems."""
