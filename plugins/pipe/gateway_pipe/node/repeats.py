"""Lines that say the same again and again, as those of a gateway that is away for a weekend."""

from __future__ import annotations

_FIRST_GAP_S = 10.0
_LONGEST_GAP_S = 600.0


class Repeats:
    """Lets a text through at once when it is new, and then ever less often: after 10 s, 20 s, up to 10 minutes."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The next text is new, whatever it is."""
        self._text: str | None = None
        self._gap_s = _FIRST_GAP_S
        self._since = 0.0
        self._left_out = 0

    def due(self, text: str, now: float) -> int | None:
        """How many of these were left out before it where ``text`` is to be told at ``now``, None where it is not."""
        if text != self._text:
            self.forget()
            self._text, self._since = text, now
            return 0
        if now - self._since < self._gap_s:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        self._gap_s = min(2 * self._gap_s, _LONGEST_GAP_S)
        self._since = now
        return left_out
