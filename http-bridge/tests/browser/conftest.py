"""What the tests of the console share: a headless Chromium, and pages that fail their test when they misbehave.

TILL_SHOP is the address of a running shop's REST face, TILL_ADMIN that of its bridge's admin listener, if there is one,
and TILL_GUARDED that of another bridge of the shop, which asks for the key in TILL_KEY. CHROMIUM is the browser. The
files in the folder TILL_CONSOLE_FILES replace those in the executable, so that you can work on them without building.
Screenshots go to SCREENSHOTS.
"""

import os
import pathlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, sync_playwright

SHOP = os.environ["TILL_SHOP"]
ADMIN = os.environ.get("TILL_ADMIN", "")
GUARDED = os.environ.get("TILL_GUARDED", "")
KEY = os.environ.get("TILL_KEY", "")
SCREENSHOTS = pathlib.Path(os.environ["SCREENSHOTS"])
FILES = os.environ.get("TILL_CONSOLE_FILES", "")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
KINDS = {"": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PATIENCE_MS = 15_000


@dataclass
class Console:
    """A page of the console, and the forbidden things that it did."""

    page: Page
    size: str
    scheme: str
    base: str = SHOP
    errors: list = field(default_factory=list)
    expected: list = field(default_factory=list)

    def open(self, view: str = "", base: str = SHOP) -> "Console":
        """Opens a view and waits until it is complete."""
        self.base = base
        self.page.goto(f"{base}/console#{view}")
        self.page.wait_for_selector("main h1:visible")
        return self

    def tab_to(self, name: str, backwards: bool = False) -> None:
        """Presses Tab until the element of this name has the focus, and shows it."""
        for _ in range(80):
            self.page.keyboard.press("Shift+Tab" if backwards else "Tab")
            focused = self.page.evaluate(NAME_OF_FOCUS)
            if focused["name"] == name:
                assert focused["outline"] not in ("none", ""), f"{name}: the focus cannot be seen"
                assert focused["width"] >= 2, f"{name}: the focus can hardly be seen"
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    def press(self, name: str, key: str = "Enter") -> None:
        """Goes to the element of this name, and presses a key there."""
        self.tab_to(name)
        self.page.keyboard.press(key)

    def write(self, name: str, text: str) -> None:
        """Goes to a field and replaces its content."""
        self.tab_to(name)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def wait_text(self, selector: str, text: str) -> None:
        """Waits until a visible element has this text."""
        place = self.page.locator(selector, has_text=text).first
        place.wait_for(state="visible", timeout=PATIENCE_MS)

    def wait_said(self, text: str) -> None:
        """Waits until this was announced to screen readers."""
        self.page.wait_for_function(
            "text => window.said.some(each => each.includes(text))", arg=text, timeout=PATIENCE_MS
        )

    def shoot(self, name: str) -> None:
        """Takes a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}-{self.size}-{self.scheme}.png"
        self.page.screenshot(path=path, full_page=True)

    def check(self) -> None:
        """What must hold for every view: axe-core finds nothing, and nothing extends beyond the edge."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()
        over = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert over <= 0, f"{over} pixels stand beyond the right edge"


NAME_OF_FOCUS = """() => {
    const element = document.activeElement;
    const label = element.labels?.[0];
    const own = [...(label?.childNodes ?? [])].filter(node => node.nodeType === 3);
    const text = label ? own.map(node => node.textContent).join('') : element.textContent;
    const style = getComputedStyle(element);
    return { name: (element.getAttribute('aria-label') ?? text ?? '').trim(),
             outline: style.outlineStyle, width: parseFloat(style.outlineWidth) };
}"""

# Keeps everything that a live region ever said.
LISTEN = """
window.said = [];
new MutationObserver(() => {
    for (const region of document.querySelectorAll('[role=status], [role=alert]')) {
        const text = region.textContent.trim();
        if (text && window.said.at(-1) !== text) window.said.push(text);
    }
}).observe(document, { subtree: true, childList: true, characterData: true });
"""


@pytest.fixture(scope="session")
def browser():
    """One browser for all tests."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ["CHROMIUM"], args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def every(request, browser):
    """A page in each size and each colour scheme."""
    yield from fresh(browser, *request.param)


@pytest.fixture
def console(browser):
    """A page on a desktop, in light."""
    yield from fresh(browser, "desktop", "light")


def fresh(browser, size: str, scheme: str):
    """A page that fails its test when it logs an error, or calls another server."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=size == "phone",
        locale="en-GB",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    console = Console(page, size, scheme)
    hosts = {urlsplit(base).netloc for base in (SHOP, ADMIN, GUARDED) if base}
    page.add_init_script(LISTEN)
    if FILES:
        page.route("**/console*", own_file)
        page.route("**/console/*", own_file)
    page.on("console", lambda line: line.type in ("error", "warning") and console.errors.append(line.text))
    page.on("pageerror", lambda error: console.errors.append(str(error)))
    page.on(
        "request",
        lambda asked: urlsplit(asked.url).netloc in hosts
        or console.errors.append(f"asks another server: {asked.url}"),
    )
    yield console
    context.close()
    unexpected = [line for line in console.errors if not any(text in line for text in console.expected)]
    assert not unexpected, unexpected


def own_file(route: Route) -> None:
    """Answers with a file of FILES, with the headers that the real server sends."""
    name = urlsplit(route.request.url).path.removeprefix("/console").strip("/") or "index.html"
    path = pathlib.Path(FILES) / name
    if not path.is_file():
        return route.continue_()
    kind = KINDS["" if name == "index.html" else path.suffix.strip(".")]
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = {"content-type": f"{kind}; charset=utf-8", "content-security-policy": policy}
    return route.fulfill(body=path.read_text(), headers=headers)
