"""Handler classes: their methods answer what the other end of a link asks, ``get_time`` for GET time.

::

    class Handlers:
        def get_cat(self, ctx, post_data, *words):  # GET cat//hello%20/world
            return {"result": "".join(words)}

A class needs no base class and is made without arguments. ``ctx`` is a ``context.Context``, ``post_data`` is
``(mimetype, data)``: JSON decoded, text as str, anything else as bytes. A method returns data, which becomes JSON, or
``(mimetype, code, data)``; an iterator as data is streamed. ``async def`` methods run on the event loop, plain ones in
threads. Methods with the names in ``load.HOOKS`` are told what happens to links.
"""

from __future__ import annotations

from gateway_pipe.handlers.marks import streaming

__all__ = ["streaming"]
