"""The documentation as a site: built without a warning, and looked at in a browser. Needs the dependency group "docs"."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

pytest_plugins = ("tests.browser",)

ROOT = Path(__file__).parent.parent

if find_spec("mkdocs") is None and os.environ.get("ELASTIC_DOCS") != "1":
    pytest.skip("needs pip install --group docs, and ELASTIC_DOCS=1 where it must be there", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_loop_is_blocked() -> None:
    """Playwright runs a loop of its own under these tests, which are not in it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as it is published; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must ask for nothing but files."""
    asked: list[str] = []
    with browser.new_page(viewport={"width": 1280, "height": 800}) as page:
        page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
        yield page
    assert asked == []


def test_every_page_is_in_the_navigation(site: Path, page: Page) -> None:
    """The index opens without the network, and its navigation leads to each page that there is."""
    page.goto((site / "index.html").as_uri())
    assert page.get_by_role("heading", level=1).inner_text().startswith("elastic_events")
    links = page.locator("nav.md-nav--primary a.md-nav__link[href$='.html']")
    shown = {Path(link.get_attribute("href") or "").name for link in links.all()}
    written = {path.with_suffix(".html").name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert shown >= written - {"index.html"}
    page.locator("nav.md-nav--primary").get_by_role("link", name="Architecture").click()
    page.wait_for_url("**/architecture.html")
    assert page.locator("article img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_reference_has_the_signature_and_the_words_of_a_name(site: Path, page: Page) -> None:
    """A name of the reference has its signature, its arguments and its errors; a field has the words of its comment."""
    page.goto((site / "api.html").as_uri())
    text = page.locator("article").inner_text()
    assert "records emitted while the lane was subscribed" in text
    assert page.locator("[id='elastic_events.EventBus.subscribe']").count() == 1
    assert page.locator("[id='elastic_events.EventBus.aclose']").count() == 1


def test_no_page_scrolls_sideways_on_a_telephone(site: Path, browser: Browser) -> None:
    """Text, tables and pictures fit a width of 390, or scroll within themselves."""
    with browser.new_page(viewport={"width": 390, "height": 800}) as page:
        for path in sorted(site.glob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path.name
