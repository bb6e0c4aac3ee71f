"""The page: well-formed, self-contained, and nothing in it is believed to be markup."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from energyscape.reports.html import Section, page

EVIL = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "link", "img", "br", "hr"}


class Reader(HTMLParser):
    """A page as a browser parses it: elements, attributes, text by element; tags must match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def figure():
    made = Figure(figsize=(1, 0.5))
    made.add_axes((0, 0, 1, 1)).imshow(np.eye(2), aspect="auto")
    return made


@pytest.fixture(scope="module")
def text():
    sections = [
        Section(EVIL, f"One.\n\n{EVIL}", figures=((figure(), EVIL),), pre=f"[model]\n  name = 1  # {EVIL}"),
        Section("Numbers", table=[["measure", EVIL], ["KL", 0.0123456], [EVIL, 7]]),
        Section("Nothing"),
    ]
    return page(EVIL, sections, subtitle=EVIL)


@pytest.fixture(scope="module")
def reader(text):
    return Reader(text)


def test_no_text_becomes_markup(reader, text):
    assert reader.all("script") == []
    assert text.count("<script") == 0
    for tag in ("title", "h1", "p", "h2", "figcaption", "th", "td", "a"):
        assert EVIL in reader.text[tag], tag
    assert reader.all("img")[0]["alt"] == EVIL


def test_nothing_is_loaded_from_outside(reader, text):
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    for _, attrs in reader.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("data:", "#"))


def test_the_picture_is_inside(reader):
    head, data = reader.all("img")[0]["src"].split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (110, 55)
        # Two corners of an identity matrix, in the colours of viridis.
        assert picture.convert("RGB").getpixel((2, 2)) == picture.convert("RGB").getpixel((107, 52)) == (253, 231, 36)


def test_contents_lead_to_sections(reader):
    targets = [attrs["href"] for attrs in reader.all("a")]
    assert targets == ["#" + attrs["id"] for attrs in reader.all("section")]
    assert reader.text["a"] == reader.text["h2"]
    assert "nav" not in [tag for tag, _ in Reader(page("One", [Section("Only")])).tags]


def test_tables_paragraphs_and_recipes(reader):
    assert reader.text["th"] == ["measure", EVIL]
    assert reader.text["td"] == ["KL", "0.01235", EVIL, "7"]
    assert reader.text["p"] == [EVIL, "One.", EVIL]
    assert "".join(reader.text["pre"]) == f"[model]\n  name = 1  # {EVIL}"


def test_the_same_page_twice():
    assert page("A", [Section("B", figures=((figure(), "c"),))]) == page(
        "A", [Section("B", figures=((figure(), "c"),))]
    )


def test_phones_and_darkness(reader, text):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all("meta")
    assert {"charset": "utf-8"} in reader.all("meta")
    assert "prefers-color-scheme: dark" in text
