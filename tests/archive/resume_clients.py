"""Clients that resume downloads, as their users run them: each downloads a URL to a file, however often it is cut."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse

from gateway_core.testing.requirements import require_program
from tests.blocks.programs import run

TRIES = 1000
PARTS = 4
SOON_S = 30
"""Long for a busy machine."""

HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server", "about:blank")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")

RESUME = """
(() => {
  const found = (node) => {
    for (const child of [...(node.shadowRoot?.children ?? []), ...(node.children ?? [])]) {
      const button = child.id === "pause-or-resume" ? child : found(child);
      if (button) return button;
    }
    return null;
  };
  const button = found(document.body);
  if (!button || button.hidden || button.textContent.trim() !== "Resume") return false;
  button.click();
  return true;
})()
"""
"""Presses "Resume" on the page of downloads, where it stands on a button."""


async def curl(url: str, file: Path) -> None:
    """``curl -C -`` until it says that all is there; it sends Range without If-Range."""
    options = ("--disable", "--silent", "--show-error", "--fail", "--noproxy", "*", "-C", "-", "-o", file.name)
    await _until_done("curl", *options, url, file=file, cut={18, 52, 56})  # curl(1): partial, nothing, receive error


async def wget(url: str, file: Path) -> None:
    """``wget -c``: it resumes by itself a few times, then is run again."""
    options = ("--no-config", "--no-proxy", "--no-verbose", "--continue", "--tries=3", "--waitretry=0", "-O", file.name)
    await _until_done("wget", *options, url, file=file, cut={4})  # wget(1): network failure


async def aria2c(url: str, file: Path) -> None:
    """Four connections that each fetch a range without If-Range, and state in a file beside it."""
    alone = ("--no-conf", "--disable-ipv6", "--enable-color=false", "--summary-interval=0", "--file-allocation=none")
    ranges = ("-x4", "-s4", "-k1M", "--max-tries=5", "--retry-wait=0", "--auto-file-renaming=false", "--continue=true")
    await _until_done("aria2c", *alone, *ranges, "-o", file.name, url, file=file, cut={1, 2, 5, 6, 7, 19})


async def _until_done(program: str, *arguments: str, file: Path, cut: set[int]) -> None:
    """Run it until its exit code is 0; ``cut`` are those codes after which it is run again."""
    program = require_program(program)
    for _ in range(TRIES):
        ran = await run(program, *arguments, cwd=file.parent)
        if ran.code == 0:
            return
        assert ran.code in cut, (ran.code, ran.out)
    raise AssertionError(f"{program} has not done it in {TRIES} runs: {ran.out}")


async def ranges(url: str, file: Path) -> None:
    """As browsers do that download in parallel: several ranges at once with If-Range, each resumed where it was cut."""
    async with ClientSession() as session:
        etag, size = await _begun(session, url)
        with file.open("wb") as out:
            out.truncate(size)
        bounds = [size * number // PARTS for number in range(PARTS + 1)]
        async with asyncio.TaskGroup() as tasks:
            for part in itertools.pairwise(bounds):
                tasks.create_task(_range(session, url, file, etag=etag, bounds=part))


async def _begun(session: ClientSession, url: str) -> tuple[str, int]:
    """The strong ETag and the size."""
    for _ in range(TRIES):
        with suppress(ClientError):
            async with session.head(url) as answer:
                assert answer.status == 200
                assert answer.headers["Accept-Ranges"] == "bytes"
                assert answer.headers["ETag"].startswith('"')
                return answer.headers["ETag"], int(answer.headers["Content-Length"])
    raise AssertionError("no head came through")


async def _range(session: ClientSession, url: str, file: Path, *, etag: str, bounds: tuple[int, int]) -> None:
    position, end = bounds
    for _ in range(TRIES):
        if position == end:
            return
        with suppress(ClientError), file.open("r+b") as out:
            out.seek(position)
            headers = {"Range": f"bytes={position}-{end - 1}", "If-Range": etag}
            async with session.get(url, headers=headers) as answer:
                assert answer.status == 206
                assert answer.headers["Content-Range"].startswith(f"bytes {position}-{end - 1}/")
                async for chunk in answer.content.iter_any():
                    out.write(chunk)
                    position += len(chunk)
    assert position == end


async def chromium(url: str, file: Path) -> None:
    """The browser itself: after a short body it goes on alone, a few times, and else when somebody says "Resume"."""
    async with _browser(file.parent) as browser:
        await browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(file.parent))
        page = await browser.page("about:blank")
        while not (await browser.call("Page.navigate", page, url=url)).get("isDownload"):
            pass  # cut before it became a download: the user reloads
        downloads = await browser.page("chrome://downloads/")  # last, since it shows nothing in the background
        async with asyncio.timeout(SOON_S):
            while not (done := _completed(file.parent)):
                await browser.call("Runtime.evaluate", downloads, expression=RESUME)
                await asyncio.sleep(0.05)
        done.rename(file)


def _completed(folder: Path) -> Path | None:
    """The one file there, when it has its final name."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return files[0] if len(files) == 1 and files[0].suffix != ".crdownload" else None


class _Browser:
    """What is said over the debugging protocol."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Until the browser goes."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)

    async def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """The result."""
        self._calls += 1
        answer = self._answers[self._calls] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": self._calls, "method": method, "params": params, **({"sessionId": session} if session else {})}
        )
        async with asyncio.timeout(SOON_S):
            told = await answer
        assert "result" in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def page(self, url: str) -> str:
        """The session of a new tab."""
        target = await self.call("Target.createTarget", url=url)
        return str((await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True))["sessionId"])


@asynccontextmanager
async def _browser(folder: Path) -> AsyncIterator[_Browser]:
    """With a profile of its own in ``folder``."""
    profile = folder / "profile"
    own = (f"--user-data-dir={profile}", "--remote-debugging-port=0")
    process = await asyncio.create_subprocess_exec(
        require_program("chromium"), *own, *QUIET, *HEADLESS, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, cwd=folder
    )
    try:
        address = await _address(profile / "DevToolsActivePort")
        async with ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            browser = _Browser(socket)
            reading = asyncio.create_task(browser.read())
            try:
                yield browser
            finally:
                reading.cancel()
                await asyncio.wait([reading])
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await asyncio.to_thread(shutil.rmtree, profile, ignore_errors=True)


async def _address(file: Path) -> str:
    """Where the browser listens, when it has told it in ``file``: a port, and a path in the next line."""
    async with asyncio.timeout(SOON_S):
        while not (file.exists() and "\n" in (told := file.read_text())):
            await asyncio.sleep(0.02)
    port, path = told.split()
    return f"ws://127.0.0.1:{port}{path}"
