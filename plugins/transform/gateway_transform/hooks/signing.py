"""Signatures of Standard Webhooks: a receiver can tell who sent a message, that it is whole, and that it is new.

The key is the client's secret as it stands, in UTF-8; ``gateway client webhook-secret`` prints it in the form
``whsec_<base64>`` that receivers' libraries take.
"""

from __future__ import annotations

import base64
import hmac


def signed_headers(secret: str, message_id: str, timestamp_s: int, *, body: bytes) -> dict[str, str]:
    """The three headers of a message. ``message_id`` has no dot in it and is the same at each try.

    Source: https://www.standardwebhooks.com, "Signature scheme", symmetric.
    """
    signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
    digest = hmac.digest(secret.encode(), signed, "sha256")
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {**unsigned_headers(message_id, timestamp_s), "webhook-signature": signature}


def unsigned_headers(message_id: str, timestamp_s: int) -> dict[str, str]:
    """What a message of nobody in particular carries: there is no secret to sign it with."""
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}
