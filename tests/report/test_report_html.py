"""Nothing that is text can become HTML."""

from __future__ import annotations

import json

import pytest
from report_helpers import HOSTILE, Page

from llmconv.report.html import Html, data, join, tag


def test_text_and_attributes_are_escaped():
    made = tag(
        "p", HOSTILE, [tag("b", HOSTILE), None, 3], title=HOSTILE, class_="x", hidden=True, open=False, data_run=0
    )
    page = Page(made)
    assert page.tags == ["p", "b"] and page.text == f"{HOSTILE} {HOSTILE} 3"
    assert page.attributes == [("title", HOSTILE), ("class", "x"), ("hidden", None), ("data-run", "0")]


def test_html_stays_html():
    assert join(tag("br"), "<", Html("<i></i>")) == "<br>&lt;<i></i>"
    assert tag("meta", name="viewport", content="a") == '<meta name="viewport" content="a">'


def test_data_cannot_end_its_element():
    given = {"a": [HOSTILE, "\u2028", 1.5, None], HOSTILE: "-->"}
    made = data("data", given)
    assert Page(made).data == given
    assert made.count("<") == 2 and json.loads(made[made.index(">") + 1 : made.rindex("<")]) == given
    with pytest.raises(ValueError):
        data("data", float("nan"))
