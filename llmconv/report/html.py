"""HTML that is escaped by construction: text becomes `Html` only through `tag`, and what is not `Html` is escaped
there.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

VOID = {"br", "link", "meta", "wbr"}


class Html(str):
    """Text that is HTML already."""


def tag(name: str, /, *content: Any, **attributes: Any) -> Html:
    """An element. content: Html as it is, other values as text, None as nothing, lists flattened. attributes: None and
    False left out, True without value; `class_` is class, `data_x` data-x.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*content)}</{name}>")


def join(*content: Any) -> Html:
    """The contents side by side."""
    return Html("".join(_text(item) for item in content))


def _text(item: Any) -> str:
    if item is None:
        return ""
    if isinstance(item, (list, tuple)):
        return "".join(map(_text, item))
    return item if isinstance(item, Html) else escape(str(item))


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def data(name: str, value: Any) -> Html:
    """A block of JSON for the page's script: nothing in it can end the element. Figures that are not finite are an
    error.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')
