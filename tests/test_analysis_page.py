"""page.py: the text of the page, and what a browser does with it. The page is full of bad names."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from analysis import page, style
from analysis.sections import Note, Picture, Section, Table

HOSTILE = [
    "<script>document.title = 'hostile'</script>",
    "<img src=x onerror=\"document.title = 'hostile'\">",
    '" onclick="document.title = 1',
    "</script><b>$policy ${style} \\ `x` a|b\n=1",
    "one_word_of_" + 30 * "many_letters",
]
VALUES = [0.5, None, 10.0, -1.25, float("nan"), 2.0, 1e3]
TEXTS = ["9", "null", "1e-05", "0.002732", "10", "–", "1,944"]  # noqa: RUF001 - the missing value
KINDS = [*page.SYMBOLS, None]


def runs(order: list[int]) -> list[str]:
    """Names of runs: run-0, run-5, run-10 and so on."""
    return [f"run-{5 * i}" for i in order]


def write_page(folder, kind="won") -> str:
    """A page with figures, a table to sort, a folded one, and bad names everywhere."""
    pictures = []
    for file, caption in zip(("0.png", "1.png", "2.png", "3.png", "<b>.png"), HOSTILE, strict=True):
        Image.new("RGB", (1120, 476), "white").save(folder / file)
        pictures.append(Picture(folder / file, caption))
    (folder / "0.svg").touch()
    names = runs(list(range(len(VALUES))))
    rows = list(zip(names, VALUES, TEXTS, strict=True))
    measured = Table(folder / "a", "To be sorted", ("run", "value", "text"), rows)
    wide = Table(folder / "b", HOSTILE[0], HOSTILE, 40 * [HOSTILE], folded=True)
    links = {HOSTILE[0]: "javascript:alert(1)", HOSTILE[1]: 'https://example.org/"onclick="x'}
    sections = [
        Section("First", HOSTILE[3], [Note(HOSTILE[1], warning=True)], pictures, [measured]),
        Section("Second: <b>", "command", [Note(HOSTILE[4])], tables=[wide], links=links),
        *(Section(f"Section number {i}") for i in range(9)),
    ]
    key = dict(zip(HOSTILE, reversed(HOSTILE), strict=True))
    html = page.render(HOSTILE[0], HOSTILE[1], key, sections, kind)
    (folder / "page.html").write_text(html, encoding="utf-8")
    return html


class Elements(HTMLParser):
    """The elements of a page as [tag, attributes, text up to the next tag]."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[list] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1][2] += data

    def named(self, tag: str) -> list[list]:
        return [element for element in self.found if element[0] == tag]


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_nothing_else(tmp_path):
    parsed = Elements(write_page(tmp_path))
    (policy,) = [a["content"] for _, a, _ in parsed.named("meta") if "http-equiv" in a]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    for tag in ("style", "script"):
        ((_, attributes, text),) = parsed.named(tag)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == [f"'sha256-{digest}'"] and not attributes
    assert rules == {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }


@pytest.mark.parametrize("kind", ["won", None])
def test_bad_names_add_no_element_no_handler_and_no_address(tmp_path, kind):
    parsed = Elements(write_page(tmp_path, kind))
    assert len(parsed.named("b")) == len(HOSTILE)  # only the numbers at the top are in bold
    assert len(parsed.named("script")) == 1
    for _, attributes, _ in parsed.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert all(a["src"].startswith("data:image/png;base64,") for _, a, _ in parsed.named("img"))
    assert [a["alt"] for _, a, _ in parsed.named("img")] == HOSTILE
    addresses = [attributes["href"] for _, attributes, _ in parsed.named("a")]
    assert [a for a in addresses if not a.startswith("#")] == ['https://example.org/"onclick="x']


def test_captions_name_the_files_of_a_figure(tmp_path):
    write_page(tmp_path)
    spans = [text for _, a, text in Elements((tmp_path / "page.html").read_text()).named("span")]
    assert "0.png, 0.svg" in spans and "1.png" in spans


def test_a_figure_is_saved_as_a_png_and_an_svg_without_font_date_and_version(tmp_path):
    for name in "ab":
        figure, ((axes,),) = style.figure(height=4.0)
        axes.plot([1, 2], [3, 4], **style.ROLES["best"])
        axes.set_title("letters")
        assert style.save(figure, tmp_path / f"{name}.png") == tmp_path / f"{name}.png"
    for ending in ("png", "svg"):
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
        assert first == second
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (style.WIDTH * style.DPI, 4.0 * style.DPI) and not image.text
    svg = (tmp_path / "a.svg").read_text()
    points = (style.WIDTH * 72, 4.0 * 72)
    assert re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups() == tuple(f"{p:g}" for p in points)
    assert not re.search("<text|<dc:date|<dc:creator|Matplotlib", svg)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("page")
    write_page(made)
    return made


@pytest.fixture
def shown(browser, folder):
    """The page in a browser. Fails if it asks for anything, or if the browser complains."""
    asked, said = [], []
    opened = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    address = (folder / "page.html").as_uri()
    opened.goto(address)
    yield opened
    assert opened.title() == HOSTILE[0]  # no name ran as a script
    opened.close()
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert said == []


def column(shown, number: int) -> list[str]:
    return shown.locator(f"table >> nth=0 >> tbody td:nth-child({number + 1})").all_inner_texts()


@pytest.mark.parametrize(
    ("name", "number", "ascending", "descending"),
    [
        ("value", 1, [3, 0, 5, 2, 6, 1, 4], [6, 2, 5, 0, 3, 1, 4]),
        ("text", 2, [2, 3, 0, 4, 6, 1, 5], [1, 6, 4, 0, 3, 2, 5]),  # `null` is a text
    ],
)
def test_a_click_on_a_header_sorts_numbers_as_numbers_and_missing_values_last(
    shown, name, number, ascending, descending
):
    header = shown.locator("table >> nth=0 >> th").nth(number)
    steps = ("click", "Enter", "Space")
    orders = (ascending, descending, list(range(len(VALUES))))
    for step, order, state in zip(steps, orders, ("ascending", "descending", "none"), strict=True):
        button = header.get_by_role("button", name=name)
        button.click() if step == "click" else button.press(step)
        assert column(shown, 0) == runs(order)
        assert header.get_attribute("aria-sort") == state
    assert column(shown, number)[1] in ("–", "null")  # noqa: RUF001


def test_text_sorts_with_its_numbers_in_order_and_one_header_is_marked(shown):
    headers = shown.locator("table >> nth=0 >> th")
    for number in (1, 0):
        headers.nth(number).get_by_role("button").click()
    assert column(shown, 0) == runs(list(range(len(VALUES))))
    states = [headers.nth(i).get_attribute("aria-sort") for i in range(3)]
    assert states == ["ascending", "none", "none"]


@pytest.mark.parametrize("key", ["Escape", "Enter", "click"])
def test_a_figure_opens_large_and_closes(shown, key):
    button, dialog = shown.locator("figure button").nth(2), shown.get_by_role("dialog")
    small = button.locator("img").bounding_box()["width"]
    for _ in range(2):
        button.press("Enter") if key == "Enter" else button.click()
        assert dialog.locator("img").get_attribute("alt") == HOSTILE[2]
        assert dialog.locator("img").bounding_box()["width"] >= max(1120, small)
        dialog.locator("img").click() if key == "click" else shown.keyboard.press(key)
        assert not dialog.is_visible() and dialog.locator("img").count() == 0
        assert button.evaluate("button => button === document.activeElement")
    assert button.locator("img").get_attribute("alt") == HOSTILE[2]


TEXT_COLOURS = """() => {
  const clear = "rgba(0, 0, 0, 0)";
  const background = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return colour === clear && e.parentElement ? background(e.parentElement) : colour;
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const texts = [...document.querySelectorAll("body, body *:not(script)")].filter(
    (e) => e.checkVisibility() && own(e));
  return [
    ...texts.map((e) => [e.outerHTML.slice(0, 60), getComputedStyle(e).color, background(e)]),
    ...[...document.querySelectorAll("svg")].map(
      (e) => ["symbol", getComputedStyle(e).stroke, background(e)]),
  ];
}"""


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, WCAG 2.2, section "relative luminance"."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", KINDS)
def test_text_has_contrast_in_light_and_dark_and_prints_are_light(browser, tmp_path, kind):
    write_page(tmp_path, kind)
    shown = browser.new_page()
    shown.goto((tmp_path / "page.html").as_uri())
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        shown.emulate_media(media=media, color_scheme=scheme)
        dark = (media, scheme) == ("screen", "dark")
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert luminance(paper) < 0.02 if dark else luminance(paper) == 1
        card = "getComputedStyle(document.querySelector('figure img')).backgroundColor"
        assert luminance(shown.evaluate(card)) == 1
        colours = shown.evaluate(TEXT_COLOURS)
        assert len(colours) > 50
        assert ("symbol" in [what for what, *_ in colours]) == (kind is not None)
        for what, ink, ground in colours:
            low, high = sorted(map(luminance, (ink, ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (what, ink, ground, media, scheme)
    shown.close()


@pytest.mark.parametrize("script", [True, False])
def test_prints_show_folded_tables_with_and_without_the_script(browser, folder, script):
    shown = browser.new_page(java_script_enabled=script)
    shown.goto((folder / "page.html").as_uri())
    folded, heading = shown.locator("details td").last, shown.locator("details summary")
    assert heading.inner_text() == f"{HOSTILE[0]} (40 rows)"
    assert not folded.evaluate("cell => cell.checkVisibility()")
    shown.emulate_media(media="print")
    assert folded.evaluate("cell => cell.checkVisibility() && cell.offsetHeight > 0")
    assert not shown.locator("nav").is_visible()
    assert shown.locator("figure img").last.is_visible()
    shown.close()


def test_folded_tables_open_by_keyboard_and_for_printers_that_need_it(shown):
    details = shown.locator("details")
    for event, is_open in (("beforeprint", True), ("afterprint", False)):
        shown.evaluate(f"dispatchEvent(new Event('{event}'))")
        assert details.evaluate("details => details.open") is is_open
    details.locator("summary").press("Enter")
    assert details.locator("td").first.is_visible()


def test_a_phone_scrolls_tables_and_contents_but_not_the_page_sideways(shown):
    shown.set_viewport_size({"width": 390, "height": 844})
    shown.locator("summary").click()
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    for inner in ("details .scroll", "nav"):
        sizes = shown.locator(inner).evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert sizes[0] > sizes[1] and sizes[1] <= 390, inner
    shown.get_by_role("link", name="Second").click()
    contents = shown.locator("nav").bounding_box()
    heading = shown.get_by_role("heading", name="Second").bounding_box()
    assert contents["y"] == 0 and heading["y"] >= contents["height"]
    assert heading["y"] < 844


def test_the_browser_enforces_the_policy(browser, folder, tmp_path):
    added = (
        "<script>document.title = 'ran'</script><b onclick=\"document.title = 'ran'\">click</b>"
        '<img src="http://127.0.0.1:9/x.png"><p style="color: red">styled</p>'
    )
    html = (folder / "page.html").read_text(encoding="utf-8").replace("</main>", f"{added}</main>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    shown, said = browser.new_page(), []
    shown.on("console", lambda message: said.append(message.text))
    shown.goto((tmp_path / "page.html").as_uri())
    shown.locator("b").last.click()
    assert shown.title() == HOSTILE[0]
    for directive in ("script-src 'sha256", "img-src data:", "style-src 'sha256"):
        assert any(directive in text for text in said), directive
    shown.close()
