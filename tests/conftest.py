"""How examples are drawn; the built site, a server for it, and a browser that sees no other host."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no limit on time: the first example pays for torch's start.
settings.register_profile("descent", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("descent")

ROOT = Path(__file__).parent.parent

# No sandbox: tests run as root in containers. The rest keeps Chromium from calling home.
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def site():
    """The folder of the built book."""
    folder = ROOT / "_build" / "html"
    if not (folder / "index.html").exists():
        pytest.fail(f"there is no {folder}/index.html: run `make book` first", pytrace=False)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def serving(folder):
    """Serve a folder on a free port; gives its address, without a slash at the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def server(site):
    """The address of the built book."""
    with serving(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    """A Chromium without a window: the one that `python tools/environment.py browser` finds."""
    from environment import chromium
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield launched
        launched.close()


@dataclass
class Visit:
    """A page in the browser, and what the browser had to complain of."""

    page: object
    errors: list = field(default_factory=list)  # on the console, or thrown
    foreign: list = field(default_factory=list)  # addresses of other hosts that it asked for
    failed: list = field(default_factory=list)  # requests to its own host without an answer

    def listen(self, base):
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", self.answered)
        self.page.route("**/*", partial(self.route, base))

    def answered(self, response):
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")

    def route(self, base, route):
        """Cut the network: only the page's own host answers."""
        if route.request.url.startswith((base + "/", "data:", "blob:")):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()


# Resolves when the fonts of all that is shown have come and what watches sizes has been told,
# which the browser does between a layout and its painting: on a busy machine no time is enough.
SETTLED = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  await document.fonts.ready;
  await frame();
  await frame();
}"""


@pytest.fixture(scope="session")
def visit(browser):
    """``visit(base, "song2024/values.html")``: open a page with all other hosts cut off.

    ``width`` and ``scheme`` ("light" or "dark") are the reader's; ``close()`` the page's context
    when done, or leave that to the end of the session.
    """
    contexts = []

    def open_page(base, name, *, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 500
        )
        contexts.append(context)
        visit = Visit(context.new_page())
        visit.listen(base)
        visit.page.goto(f"{base}/{name}", wait_until="load")
        visit.page.evaluate(SETTLED)
        return visit

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def small_site(tmp_path):
    """``small_site({"a.html": "<p>...</p>"})``: serve a few pages written by the test itself."""
    stack = []

    def publish(pages):
        for name, body in pages.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f'<!doctype html><html lang="en"><body>{body}</body></html>')
        stack.append(serving(tmp_path))
        return stack[-1].__enter__()

    yield publish
    for served in stack:
        served.__exit__(None, None, None)
