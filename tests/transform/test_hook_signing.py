"""Receivers that verify with the library of Standard Webhooks accept what is signed here, and nothing else."""

from __future__ import annotations

import time
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway_core.auth.secrets import new_secret
from gateway_transform.hooks.signing import signed_headers

IDS = st.uuids().map(lambda value: value.hex)
SECRETS = st.one_of(
    st.builds(new_secret),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=512),
)
BODIES = st.one_of(st.text().map(str.encode), IDS.map(lambda job: f"uuid={job}".encode()))


def receiver(secret: str) -> Webhook:
    """With the key in the form that ``gateway client webhook-secret`` prints."""
    return Webhook(f"whsec_{b64encode(secret.encode()).decode()}")


@given(SECRETS, IDS, BODIES)
def test_every_signed_message_is_accepted(secret: str, message_id: str, body: bytes):
    headers = signed_headers(secret, message_id, int(time.time()), body=body)
    receiver(secret).verify(body, headers, json_parse=False)


@given(SECRETS, IDS, BODIES)
def test_signature_is_the_one_that_the_library_makes(secret: str, message_id: str, body: bytes):
    theirs = receiver(secret).sign(message_id, datetime.fromtimestamp(1_700_000_000, UTC), body.decode())
    assert signed_headers(secret, message_id, 1_700_000_000, body=body)["webhook-signature"] == theirs


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_message_without_one_of_the_headers_is_not_accepted(name: str):
    headers = signed_headers("a secret", "id", int(time.time()), body=b"body")
    del headers[name]
    with pytest.raises(WebhookVerificationError):
        receiver("a secret").verify(b"body", headers, json_parse=False)


@pytest.mark.parametrize(
    ("secret", "message_id", "late_s", "body"),
    [
        ("another secret", "id", 0, b"body"),
        ("a secret", "another", 0, b"body"),
        ("a secret", "id", 1, b"body"),
        ("a secret", "id", 0, b"bodY"),
    ],
    ids=["secret", "id", "time", "body"],
)
def test_message_of_which_anything_is_changed_is_not_accepted(secret: str, message_id: str, late_s: int, body: bytes):
    moment = int(time.time())
    headers = signed_headers("a secret", "id", moment, body=b"body")
    changed = {**headers, "webhook-id": message_id, "webhook-timestamp": str(moment - late_s)}
    with pytest.raises(WebhookVerificationError):
        receiver(secret).verify(body, changed, json_parse=False)


def test_old_message_is_not_accepted():
    headers = signed_headers("a secret", "id", int(time.time()) - 600, body=b"body")
    with pytest.raises(WebhookVerificationError):
        receiver("a secret").verify(b"body", headers, json_parse=False)
