"""The fault server and the stores that talk to it, as the transport's tests have them."""

from __future__ import annotations

from ...transport.conftest import make_store, server, static_credentials, store

__all__ = ["make_store", "server", "static_credentials", "store"]
