"""How far it is, where nobody looks on; `test_client_run` has a terminal."""

from __future__ import annotations

import io

from gateway_transform.client.progress import Progress


class Clock:
    """Stands still until a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_five_seconds_where_something_changed():
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock=clock)
    progress.show("packing", "1 of 9")
    for moment, detail in ((105, "2 of 9"), (106, "3 of 9"), (110, "2 of 9"), (111, "4 of 9"), (115, "5 of 9")):
        clock.now = moment
        progress.show("packing", detail)
    progress.close()
    assert out.getvalue() == "packing 2 of 9\npacking 4 of 9\n"


def test_what_comes_from_elsewhere_does_not_steer_the_terminal():
    out = io.StringIO()
    Progress(out).tell("\x1b[2J\ta\nb")
    assert out.getvalue() == "\ufffd[2J    a\ufffdb\n"


def test_a_reader_that_has_gone_harms_nobody():
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    Progress(Gone()).tell("hello")
