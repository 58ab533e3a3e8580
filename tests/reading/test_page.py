"""The timeline's page in a real browser: light and dark, wide and narrow, by mouse and keyboard."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Browser, Page

from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.goodput_html import goodput_html
from elastic_events.reading.rows import timeline
from elastic_events.reading.timeline_html import timeline_html
from tests.reading.runs import Run, two_attempts
from tests.reading.test_timeline import many

pytest_plugins = ("tests.browser",)

Open = Callable[..., Page]


@pytest.fixture(autouse=True)
def no_loop_is_blocked() -> None:
    """Playwright runs a loop of its own under these tests, which are not in it."""


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open the page of a run from its file; at the end nothing may have been said on the console."""
    said: list[str] = []
    pages: list[Page] = []

    def open_(run: Run, width: int = 1280, scheme: str = "light") -> Page:
        (story,) = build(run.records)
        path = tmp_path / "page.html"
        path.write_text(timeline_html(timeline(story)), "utf-8")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_goodput_page(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    """The page of the goodput shows its bar and its numbers, needs no script, and never scrolls sideways."""
    run = two_attempts()
    run.records = [
        msgspec.structs.replace(r, context=msgspec.structs.replace(r.context, run_id="<b>x")) for r in run.records
    ]
    (story,) = build(run.records)
    (tmp_path / "page.html").write_text(goodput_html(goodput(story)), "utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto((tmp_path / "page.html").as_uri())
    assert page.get_by_role("heading", level=1).inner_text() == "Run <b>x: 37.5% of 20.0 s moved the training on"
    cells = page.get_by_role("table", name="Buckets").get_by_role("cell").all_inner_texts()
    assert cells[:3] == ["productive", "7.5 s", "37.5%"]
    assert page.get_by_role("table", name="Attempts").get_by_role("row").count() == 3
    assert "detection 2.5%" in (page.get_by_role("img").first.get_attribute("aria-label") or "")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def pixels(page: Page) -> list[int]:
    """Count the chart's pixels by the colour of their middle row: what is drawn, and in which colours."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => { paint(); const data = pen.getImageData(0, 0, canvas.width, canvas.height).data, seen = {};
        for (let i = 0; i < data.length; i += 4) { const key = (data[i] << 16) | (data[i+1] << 8) | data[i+2];
        seen[key] = (seen[key] || 0) + 1; } return Object.entries(seen).filter(e => e[1] > 300).map(e => +e[0]); }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_draws(open_page: Open, width: int, scheme: str) -> None:
    """Each state is drawn in its colour, in light and dark; the page never scrolls sideways; the table tells the same."""
    page = open_page(two_attempts(), width, scheme)
    page.get_by_role("heading", name="Run run: succeeded after 20.0 s").wait_for()
    colours = page.evaluate(
        "['training', 'lost', 'startup', 'rendezvous', 'ground'].map(n => parseInt(colours[n].slice(1), 16))"
    )
    assert set(colours) <= set(pixels(page))
    assert (colours[-1] == 0xFFFFFF) == (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cells = page.get_by_role("table", name="Attempts").get_by_role("cell").all_inner_texts()
    assert cells[:5] == ["0", "1 s", "9 s", "failed", "rank 1: SIGKILL"]
    legend = page.get_by_role("list", name="Legend").get_by_role("listitem").all_inner_texts()
    assert legend == ["rendezvous", "start-up", "training", "lost steps", "first failure", "ended by its agent"]


def test_keyboard(open_page: Open) -> None:
    """With the keyboard alone: zoom, move, choose a row, go to the failure, and back to the whole job."""
    page = open_page(two_attempts())
    status = page.get_by_role("status")
    page.get_by_role("application", name="Timeline of 3 rows").wait_for()
    page.keyboard.press("+")  # at once, whatever has the focus
    assert status.inner_text() == "From 4 s to 16 s"
    page.keyboard.press("ArrowRight")
    assert status.inner_text() == "From 5.5 s to 17.5 s"
    page.keyboard.press("0")
    assert status.inner_text() == "The whole job, 20 s"
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert status.inner_text().startswith(
        "rank 1; start-up 1 s to 4 s; training, steps 0 to 3 4 s to 6.5 s; lost steps"
    )
    page.keyboard.press("f")
    assert status.inner_text() == "1 of 1: rank 1, rank 1: SIGKILL at 9 s"
    for _ in range(60):
        page.keyboard.press("+")
    low, high = page.evaluate("[low, high]")
    assert 0 < high - low < 1e-3


def test_what_is_found(open_page: Open) -> None:
    """A rank is found by its number and a node by its name, among a row a rank as among a row a node; failures alone too."""
    page = open_page(many(3, 2))
    status = page.get_by_role("status")
    names = "rows.map((row) => row[0])"
    page.keyboard.press("/")
    page.keyboard.type("rank 3")
    assert page.evaluate(names) == ["node001", "rank 3"]
    assert status.inner_text() == "2 of 9 rows"
    page.get_by_role("searchbox").fill("NODE002")
    assert page.evaluate(names) == ["node002", "rank 4", "rank 5"]
    page.get_by_role("searchbox").fill("nobody")
    assert status.inner_text() == "No row is like that"
    page.keyboard.press("ArrowDown")
    page = open_page(many(40, 8))
    assert page.evaluate(names)[:3] == ["node007", "node000", "node001"]  # the failed first
    page.get_by_label("Failed first").uncheck()
    assert page.evaluate(names)[:2] == ["node000", "node001"]
    page.get_by_label("Failed only").check()
    assert page.evaluate(names) == ["node007"]
    page.get_by_label("Failed only").uncheck()
    page.get_by_role("searchbox").fill("100")
    assert page.evaluate(names) == ["node012"]
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    assert page.get_by_role("status").inner_text() == "1 of 1: node007, rank 56: SIGTERM at 9 s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks(open_page: Open, scheme: str) -> None:
    """The first failure lies above its victims, a victim is a ring in the ground's colour, as the legend shows both."""
    page = open_page(many(10, 8), scheme=scheme)
    assert page.evaluate("rows.find((row) => row[4].length > 1)[4].map((mark) => mark[1])") == ["victim", "first"]
    colour = "[...pen.getImageData(x(9) * devicePixelRatio, (tops[1] + NODE / 2 - 2.5) * devicePixelRatio, 1, 1).data]"
    seen = page.evaluate(f"paint(), {colour}")
    ground = page.evaluate("parseInt(colours.ground.slice(1), 16)")
    assert (seen[0] << 16 | seen[1] << 8 | seen[2]) == ground
    shown = page.locator("#legend .victim").evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert shown == f"rgb({ground >> 16}, {ground >> 8 & 255}, {ground & 255})"


def test_mouse(open_page: Open) -> None:
    """Pointing at a span says what it is; buttons zoom; dragging moves; the wheel alone scrolls the page."""
    page = open_page(two_attempts())
    chart = page.get_by_role("application")
    place = chart.bounding_box()
    assert place is not None
    at = page.evaluate("[x(5), tops[1] + 8]")
    page.mouse.move(place["x"] + at[0], place["y"] + at[1])
    assert page.locator("#tip").inner_text() == "rank 0, attempt 0: training, steps 0 to 3 4 s to 6.5 s"
    page.get_by_role("button", name="Zoom in").click()
    assert page.evaluate("[low, high]") == [4, 16]
    page.mouse.move(place["x"] + 700, place["y"] + 60)
    page.mouse.down()
    page.mouse.move(place["x"] + 500, place["y"] + 60)
    page.mouse.up()
    low, _ = page.evaluate("[low, high]")
    assert 5 < low < 7
    page.mouse.wheel(0, 100)
    assert page.evaluate("low") == low
    page.get_by_role("button", name="Whole job").click()
    assert page.evaluate("[low, high]") == [0, 20]


def test_what_was_recorded_stays_text(open_page: Open) -> None:
    """Markup in a run's id, a host's name or an error is shown as it is, and nothing of it is run."""
    run = Run("<img src=x onerror=alert(1)>")
    agent = run.agent("<script>alert(2)</script>")
    run.start(0, agent, 0, range(1))
    run.failed(1, agent, 0, 0, signal="</script><script>alert(3)</script>", message="<b>bold</b>")
    run.tell(2, agent, "job.failed", reason="x")
    page = open_page(run)
    assert "<img src=x onerror=alert(1)>" in page.get_by_role("heading", level=1).inner_text()
    assert "</script><script>alert(3)</script>" in page.get_by_role("table").inner_text()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_a_thousand_nodes(open_page: Open) -> None:
    """A thousand rows are scrolled through, only those in sight are drawn, and the failing node is one key away."""
    page = open_page(many(1000, 1))
    drawn = page.evaluate(
        """() => { let count = 0; const real = row; row = (...all) => { count++; real(...all); }; paint(); return count; }"""
    )
    assert 5 < drawn < 60
    page.keyboard.press("End")
    assert page.evaluate("frame.scrollTop") > 20_000
    page.get_by_role("button", name="Next failure").click()
    assert "node007" in page.get_by_role("status").inner_text()
