"""Weights in the safetensors format, from and to any store."""
