"""What is printed holds no secrets, and nothing that a terminal obeys."""

import json

import pytest

from ropewalk.errors import ModelError
from ropewalk.sanitize import escaped, redacted


@pytest.mark.parametrize(
    "character",
    ["\0", "\a", "\b", "\r", "\n", "\t", "\x1b", "\x7f", "\x85", "\x9b", "\xad", "\u061c", "\u200b", "\u200f",
     "\u2028", "\u202e", "\u2066", "\ufeff", "\udcff", "\U000e0041"],
)  # fmt: skip
def test_what_is_no_visible_character_is_escaped(character):
    shown = escaped(f"a{character}b")
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == f"a{character}b"
    assert escaped(f"a{character}b", keep=character) == f"a{character}b"


@pytest.mark.parametrize(
    "text", ["", "plain", "ça va — 東京 🎉 ١٢٣ ⅷ", "a\u00a0b\u3000c", "e\u0301", "C:\\new"]
)
def test_visible_text_stays(text):
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://me:secret@host/v1", "http://***@host/v1"),
        ("http://me:sec@ret@host:80/v1", "http://***@host:80/v1"),
        ("http://me:12/secret@host", "http://***@host"),
        ("'http://me:se'c?r#et@host'", "'http://***@host'"),
        ("http:/me:sec@ret@host", "http:/***@host"),
        ("postgres+x://secret@host/a", "postgres+x://***@host/a"),
        ("https://host/a?split=train&api_key=secret", "https://host/a?split=train&api_key=***"),
        ("https://host/a?X-Amz-Signature=secret&x=1", "https://host/a?X-Amz-Signature=***&x=1"),
        ("https://host/a?sig=secret#access_token=secret", "https://host/a?sig=***#access_token=***"),
        ("Authorization: Bearer secret-secret", "Authorization: Bearer ***"),
        ("the token hf_secretSECRETsecret012 is", "the token *** is"),
        ("sk-secret-secret-secret-x: no such key", "***: no such key"),
        ("two: http://a:secret@h http://b:secret@i", "two: http://***@h http://***@i"),
    ],
)
def test_passwords_and_keys_are_hidden(text, left):
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "org/model@main", "me@example.org", "https://host/org/model@main?split=train", "http://host:80/v1",
        "pad_token=</s>", "--text 'a?.txt'", "hf_short", "a basic idea",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_secrets_of_the_environment_are_hidden_in_every_error(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-no-known-form")
    error = ModelError("org/model: of-no-known-form is refused by http://me:secret@host")
    assert str(error) == "org/model: *** is refused by http://***@host"
