"""The page in a real browser: it sorts, shows its pictures, asks for nothing, fits a phone."""

import pytest

pytestmark = pytest.mark.system

WIDTHS = (375, 1280)
SCHEMES = ("light", "dark")

# WCAG 2: relative luminance and contrast. Every text is compared with the nearest ground below it;
# large or bold text needs 3, all other 4.5.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const [r, g, b, a = 1] = parts(getComputedStyle(one).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    if (element.closest("title, desc")) continue;
    const style = getComputedStyle(element);
    const ink = parts(element instanceof SVGElement ? style.fill : style.color).slice(0, 3);
    const [one, two] = [luminance(ink), luminance(ground(element))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (two + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""

# Names as a browser computes them for people who do not see the page.
NAMELESS = """() => [...document.querySelectorAll(
    "a, button, summary, img, [role], nav, section, table")].filter((one) => {
  const by = (one.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean)
    .map((id) => document.getElementById(id)?.textContent.trim()).join(" ");
  const caption = one.tagName === "TABLE" ? one.caption?.textContent.trim() : "";
  const text = ["A", "BUTTON", "SUMMARY"].includes(one.tagName) ? one.textContent.trim() : "";
  const label = one.getAttribute("aria-label")?.trim();
  return !(by || caption || text || label || one.alt?.trim());
}).map((one) => one.outerHTML.slice(0, 80))"""

OPEN_ALL = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"


@pytest.fixture
def show(open_page, page):
    def open_report(**more):
        return open_page(page.as_uri(), **more)

    return open_report


def order(page, column):
    """Return what the first table's column says from top to bottom."""
    rows = page.locator("#results table tbody tr[data-row]")
    return [
        rows.nth(place).locator("th, td").nth(column).inner_text() for place in range(rows.count())
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_network_and_without_a_complaint(show, width, scheme):
    seen = show(width=width, scheme=scheme)
    seen.page.evaluate(OPEN_ALL)
    seen.page.wait_for_timeout(200)
    assert seen.problems == []
    assert seen.network == []
    assert [r for r in seen.requests if r.startswith("file:")] == [seen.page.url]


def test_hostile_names_run_nothing(show, page):
    title = show().page.title()
    assert title == "Results in runs"


def test_the_table_sorts_by_click_and_by_keyboard(show):
    page = show().page
    head = page.locator("#results thead th").nth(1)
    button = head.get_by_role("button")
    values = [float(text) for text in map(str.split, order(page, 1)) for text in text[:1]]
    assert len(set(values)) > 1
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    sorted_values = [float(text.split()[0]) for text in order(page, 1)]
    assert sorted_values == sorted(values, reverse=True)
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in order(page, 1)] == sorted(values)
    names = page.locator("#results thead th").first
    names.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert names.get_attribute("aria-sort") == "ascending"
    listed = order(page, 0)
    assert listed[0].startswith("<script>")  # signs come before letters
    names.get_by_role("button").click()
    assert order(page, 0) == listed[::-1]


def test_every_picture_loads(show):
    page = show().page
    page.evaluate(OPEN_ALL)
    sizes = page.evaluate(
        "Promise.all([...document.images].map(async (one) => { await one.decode(); "
        "return [one.naturalWidth, one.naturalHeight, one.width, one.height]; }))"
    )
    assert len(sizes) >= 32
    for natural_width, natural_height, width, height in sizes:
        assert natural_width > 1
        assert width > 20
        assert width / height == pytest.approx(natural_width / natural_height, rel=0.05)


def test_a_phone_needs_no_sideways_scrolling_of_the_page(show):
    page = show(width=375, height=800).page
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.evaluate("window.scrollTo(500, 0)")
    assert page.evaluate("window.scrollX") == 0
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((o) => o.scrollWidth > o.clientWidth)"
        ".map((one) => [one.tabIndex, one.getAttribute('role')])"
    )
    assert wide
    assert {tuple(one) for one in wide} == {(0, "region")}
    # Nothing that does not scroll by itself sticks out.
    outside = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, pre') "
        "&& !one.closest('svg') && one.getBoundingClientRect().right > 376)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_the_dark_scheme_is_dark(show):
    grounds = []
    for scheme in SCHEMES:
        page = show(scheme=scheme).page
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(part) for part in colour[4:-1].split(",")) / 3)
    light, dark = grounds
    assert light > 200
    assert dark < 50


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_stands_out_from_its_ground(show, scheme):
    page = show(scheme=scheme).page
    page.evaluate(OPEN_ALL)
    found = page.evaluate(CONTRAST)
    assert len(found) > 200
    assert [one for one in found if one[0] < 4.5] == []


def test_lines_of_charts_stand_out_too(show):
    for scheme in SCHEMES:
        page = show(scheme=scheme).page
        colours = page.evaluate(
            "[0, 1, 2, 3, 4, 5, 6, 7].map((n) => getComputedStyle(document.documentElement)"
            ".getPropertyValue(`--s${n}`).trim())"
        )
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        below = luminance([int(part) for part in ground[4:-1].split(",")])
        assert len(set(colours)) == 8
        for colour in colours:
            own = luminance([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
            assert (max(own, below) + 0.05) / (min(own, below) + 0.05) >= 3


def luminance(rgb):
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
              for v in (part / 255 for part in rgb)]  # fmt: skip
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_everything_has_a_name_and_a_place(show):
    page = show().page
    page.evaluate(OPEN_ALL)
    assert page.evaluate(NAMELESS) == []
    for landmark in ("banner", "main", "contentinfo", "navigation"):
        assert page.get_by_role(landmark).count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    outside = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4, p, table, img, svg.plot')]"
        ".filter((one) => !one.closest('header, nav, main, footer')).length"
    )
    assert outside == 0
    plots = page.get_by_role("img", name="Training loss")
    assert plots.count() >= 1


def test_the_keyboard_reaches_the_results_first(show):
    page = show().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#results")


def test_it_can_be_read_without_scripts(show):
    seen = show(java_script_enabled=False)
    assert seen.page.locator("#results table").is_visible()
    assert seen.page.get_by_role("img").count() > 0


def test_a_wider_letter_does_not_break_a_phone(show):
    page = show(width=375, height=800).page
    page.evaluate(OPEN_ALL)
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    page.evaluate("document.body.style.fontSize = '200%'")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
