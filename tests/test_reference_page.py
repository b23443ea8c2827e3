"""The reference page: roles of docstrings become links."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HOOK = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "roles.py"))["on_page_content"]
PLACES = """
<h3 id="s3dlio.config.Config" class="doc"></h3><h3 id="s3dlio.blocking.put"></h3>
<h4 id="s3dlio.stores.store.ObjectStore.put"></h4>
"""


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (":class:<code>s3dlio.Config</code>", '<a href="#s3dlio.config.Config"><code>s3dlio.Config</code></a>'),
        (":class:<code>~s3dlio.Config</code>", '<a href="#s3dlio.config.Config"><code>s3dlio.Config</code></a>'),
        (":func:<code>put</code>", "<code>put</code>"),  # of two it may be either
        (":mod:<code>s3dlio.proxy</code>", "<code>s3dlio.proxy</code>"),
        ("a tuple: <code>put</code>", "a tuple: <code>put</code>"),
    ],
)
def test_a_role_is_a_link_where_one_place_has_the_name(written: str, shown: str) -> None:
    assert HOOK(f"{PLACES}<p>{written}</p>", page=None) == f"{PLACES}<p>{shown}</p>"
