"""The page is well-formed, loads nothing, and shows any text as the text it is."""

import json
import re
from html.parser import HTMLParser

import jax.numpy as jnp
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Note
from jaxcomp.measure import (
    PHONE,
    Bar,
    Titled,
    code,
    collapsible,
    figure,
    heading,
    html_report,
    layer_sparsity,
    paragraph,
    summary,
    summary_table,
    table,
    tiles,
    training_curves,
)

HOSTILE = '<script src="https://evil">alert(\'1\')</script> & <img src=x onerror=alert(1)> $\\frac{$ id="x"'


class Page(HTMLParser):
    """Every tag, attribute and text of a page; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def sparse(path):
    params = {path: jnp.array([0.0, 0.0, 1.0]), "bias": jnp.ones(3)}
    return summary(params, notes={path: Note(sparsity=0.5)})


def blocks(text):
    layers = sparse(text)
    return [
        text,
        tiles([(text, text, text), ("size", "1 kB")]),
        heading(text),
        paragraph(text),
        figure(training_curves([{"phase": text, "step": 1, "loss": 1.0}], ["loss", text]), caption=text),
        figure(layer_sparsity(layers), narrow=layer_sparsity(layers, width=PHONE), caption=text),
        summary_table(layers),
        table([{text: text}, {text: 1.5}], total={text: text}),
        collapsible(text, code(text), text),
    ]


@pytest.fixture(scope="module", params=["plain", HOSTILE], ids=["plain", "hostile"])
def page(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    html_report(path, request.param, blocks(request.param))
    return request.param, path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_self_contained(page):
    _, text = page
    parsed = Page(text)
    loading = {
        "script",
        "img",
        "iframe",
        "link",
        "object",
        "embed",
        "base",
        "video",
        "audio",
        "source",
        "form",
    }
    assert not loading & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    links = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(link.startswith("#") for link in links)
    styles = re.findall("<style.*?</style>", text, re.DOTALL)
    assert not re.search(r"@import|url\((?!#)", "".join(styles))


def test_every_text_comes_back_as_it_was(page):
    name, text = page
    said = Page(text).texts
    # The title twice, then each block's own: string, tiles 3, h2, p, two captions, panel title, legend,
    # table 1 + 3, collapsible 3.
    assert said.count(name) >= 16
    assert ("aria-label", name) in Page(text).attributes


def test_drawings_on_one_page_share_no_id(page):
    _, text = page
    parsed = Page(text)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for name, value in parsed.attributes if name == "xlink:href"}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used <= set(ids)


def test_same_drawing_gives_the_same_page():
    first, second = (figure(layer_sparsity(sparse("w"))).markup for _ in range(2))
    assert first == second


def test_drawings_have_no_color_that_a_dark_page_cannot_change():
    markup = figure(training_curves([{"step": i, "loss": 1.0 + i} for i in range(3)], ["loss"])).markup
    drawn = re.findall(r"(?:fill|stroke): (#\w+|var\(--\w+\)|none)", markup)
    assert {"var(--ink)", "var(--soft)"} <= set(drawn)
    assert "#ffffff" not in markup
    assert set(drawn) & {"#000000", "#1c2330"} == set()
    page = html_report.__globals__["STYLE"]
    for name in set(re.findall(r"var\((--\w+)\)", markup)):
        assert page.count(f"{name}:") == 2  # light and dark


def test_a_checksum_is_shown_in_short_and_kept_whole():
    markup = table([{"a": Titled("1a2b…", "1a2b" * 16)}]).markup
    assert f'<td title="{"1a2b" * 16}">1a2b…</td>' in markup


def test_table_draws_each_kind_of_cell():
    rows = [{"a": 1234567, "b": 0.123456, "c": None, "d": True, "e": Bar(0.5, 0.75), "f": "<x>"}, {"g": 1}]
    markup = table(rows).markup
    for shown in ("1,234,567", "0.1235", "<td></td>", "yes", "width:50.00%", "left:75.00%", "&lt;x&gt;"):
        assert shown in markup
    assert [cell in markup for cell in ("<th>f</th>", '<th class="number">a</th>')] == [True, True]
    assert "1,234,567" not in table(rows, ["b", "absent"]).markup
    assert "<td" not in table([]).markup


@pytest.mark.parametrize(("reached", "width"), [(float("nan"), "0.00"), (-1.0, "0.00"), (2.0, "100.00")])
def test_bars_stay_within_their_cell(reached, width):
    assert f"width:{width}%" in table([{"a": Bar(reached)}]).markup


@pytest.mark.parametrize("item", ["abc", ("one",), ("a", "b", "c", "d")])
def test_tiles_are_two_or_three_texts(item):
    with pytest.raises(ArgumentError, match="label, value"):
        tiles([item])


def test_summary_table_lists_every_row_and_the_total():
    markup = summary_table(sparse("w")).markup
    assert markup.count("<tr>") == 1 + 2 + 1
    assert "no rule selects it" in markup
    assert "66.7%" in markup


def test_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    html_report(path, "first", [])
    with pytest.raises(AttributeError):
        html_report(path, "second", ["fine", object()])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        html_report(str(path), "third", [])
    assert "first" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_braces_of_a_configuration_stay(tmp_path):
    config = json.dumps({"lr": {"peak": 0.1}}, indent=2)
    html_report(tmp_path / "r.html", "{title}", [collapsible("Configuration", code(config))])
    assert config in Page((tmp_path / "r.html").read_text()).texts
