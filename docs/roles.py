"""Docstrings name what else there is by roles, such as :class:`s3dlio.Config`: on a page they are links."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":[a-z]+:<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """`html` with its roles as links to where the page describes the name; plain where no or several places do.

    Source: https://www.mkdocs.org/dev-guide/plugins/#on_page_content. Errors: none.
    """
    places: dict[str, list[str]] = {}
    for place in re.findall(r'<h\d id="(s3dlio[\w.]*)"', html):
        places.setdefault(place.rpartition(".")[2], []).append(place)

    def linked(role: re.Match[str]) -> str:
        found = places.get(role[1].rpartition(".")[2], [])
        name = f"<code>{role[1]}</code>"
        return f'<a href="#{found[0]}">{name}</a>' if len(found) == 1 else name

    return _ROLE.sub(linked, html)
