"""Secrets: their form, what a typing error looks like, and what may be a secret at all."""

from __future__ import annotations

import hashlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.auth.secrets import PREFIX, digest, new_secret, plausible

ALPHABET = string.digits + string.ascii_letters


def test_a_new_secret_has_prefix_random_part_and_checksum() -> None:
    assert re.fullmatch(r"gw_[0-9A-Za-z]{46}", new_secret())


def test_new_secrets_are_plausible_and_all_different() -> None:
    made = {new_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert all(map(plausible, made))


def test_every_character_of_the_random_part_varies() -> None:
    made = [new_secret() for _ in range(1000)]
    for place in range(len(PREFIX), len(PREFIX) + 40):
        assert len({secret[place] for secret in made}) > 50


@given(place=st.integers(0, 45), other=st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed_without_a_look_up(place: int, other: str) -> None:
    secret = new_secret()
    index = len(PREFIX) + place
    changed = secret[:index] + other + secret[index + 1 :]
    assert plausible(changed) == (changed == secret)


@given(place=st.integers(0, 44))
def test_two_swapped_characters_are_noticed(place: int) -> None:
    secret = new_secret()
    index = len(PREFIX) + place
    swapped = secret[:index] + secret[index + 1] + secret[index] + secret[index + 2 :]
    assert plausible(swapped) == (swapped == secret)


@pytest.mark.parametrize(
    "imported",
    [
        "gw_",
        "gw_short",
        "x",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "a/b+c==",
        "!" * 512,
    ],
)
def test_secrets_of_other_programs_have_any_visible_form(imported: str) -> None:
    assert plausible(imported)


@pytest.mark.parametrize("text", ["", "x" * 513, "ä", "a\nb", "a\x00b", "a\tb", "\x7f", "secret\u2028", "\uff11\uff12"])
def test_what_no_header_can_carry_is_no_secret(text: str) -> None:
    assert not plausible(text)


@given(st.text())
def test_any_text_is_judged_without_an_error(text: str) -> None:
    assert plausible(text) in {True, False}
    assert not plausible(text) or (text.isascii() and 0 < len(text) <= 512)


def test_the_digest_is_sha_256() -> None:
    assert digest("abc") == hashlib.sha256(b"abc").hexdigest()
