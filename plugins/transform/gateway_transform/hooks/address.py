"""Whether a hook's URL can be one, told when job.json is read and not only hours later by the delivery log."""

from __future__ import annotations

from gateway_core import Gateway, SourceRefused

MOST_CHARACTERS = 2048


def check_hook(gateway: Gateway, url: str) -> str | None:
    """Say what is wrong with ``url``, in a sentence for out.log; None when nothing is.

    Names are not looked up: an address is judged when it is dialled. The sentence is the same for every address and
    port that the egress guard refuses, so that nobody can map a network with it; the operator's log has the reason.
    """
    if len(url) > MOST_CHARACTERS:
        return f"notify_hook will not be called: longer than {MOST_CHARACTERS} characters"
    try:
        gateway.http.check(url)
    except SourceRefused as exc:
        return f"notify_hook will not be called: {exc.detail}"
    return None
