"""Limits of an exchange with an untrusted server; no message shows a secret."""

import base64
import gzip
import time
from urllib.parse import quote

import pytest
from completions_server import CompletionsServer, http_reply, raw_server

from ropewalk.errors import EngineError, RopewalkError, SettingError
from ropewalk.verify.completions import CompletionsClient

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
BOMB = gzip.compress(b" " * 10**7)


def test_a_server_that_does_not_reply_in_time(loaded, served, prompts):
    with CompletionsServer(loaded.name, served.long, "sleeps").running() as url:
        endpoint = CompletionsClient(url, timeout_s=0.2)
        with pytest.raises(EngineError, match="timed out"):
            endpoint.complete(prompts[0], 1)


@pytest.mark.parametrize(
    ("pieces", "how", "noun"),
    [
        ((HEAD, CHUNK), {"repeat": True}, "MiB"),
        ((HEAD, b"1\r\n \r\n"), {"repeat": True, "pause": 0.02}, "timed out"),
        ((b"HTTP/1.1 200 OK\r\n", b"X: "), {"repeat": True, "pause": 0.02}, "timed out"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), {"repeat": True, "pause": 0.02}, "timed out"),
        ((b"", b""), {"repeat": True, "pause": 0.02}, "timed out"),
        ((http_reply(BOMB, "Content-Encoding: gzip"),), {}, "compresses"),
        ((http_reply(BOMB, "Content-Encoding: br, gzip"),), {}, "compresses"),
        ((http_reply(b"", "Location: http://127.0.0.1:9/", status="307 There"),), {}, "not followed"),
        ((http_reply(b"", "Location: \x00http://[", status="302 There"),), {}, "http"),
        ((http_reply(b"", status="301 There"),), {}, "301"),
        ((http_reply(b"{}")[:-1],), {}, "closed"),
        ((b"SSH-2.0-OpenSSH_9.6\r\n",), {}, "reached"),
        ((b"\x15\x03\x03\x00\x02\x02\x50",), {}, "reached"),
        ((), {}, "reached"),
        ((http_reply(b"no", "X: " + "x" * 10**6),), {}, "reached"),
        ((http_reply(b"", status="204 No Content"),), {}, "form"),
        ((http_reply(b"<html>", "Content-Type: text/html; charset=zlib_codec", status="503 No"),), {}, "503"),
        ((http_reply(b"\xff\xfe", "Set-Cookie: \xff;;=;expires=9e99"),), {}, "form"),
    ],
)  # fmt: skip
def test_a_reply_beyond_a_limit_is_an_error_of_one_line(pieces, how, noun):
    began = time.monotonic()
    with raw_server(*pieces, **how) as url, pytest.raises(EngineError, match=noun) as raised:
        CompletionsClient(url, timeout_s=0.5 if "timed" in noun else 30.0)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert time.monotonic() - began < 25


def test_no_request_goes_to_another_host(loaded, served):
    other = CompletionsServer(loaded.name, served.long)
    with other.running() as there:
        reply = http_reply(b"", f"Location: {there}/v1/models", status="308 There")
        with raw_server(reply) as url, pytest.raises(EngineError, match="not followed"):
            CompletionsClient(url)
    assert other.keys == set()


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "localhost:8000", "ftp://127.0.0.1", "file:///etc/passwd", "http://", "http:///v1",
        "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:0", "http://127.0.0.1:port",
        "http://127.0.0.1:-1", "http://127.0.0.1/" + "a" * 5000,
        "http://a b/", "http://a\nb", "http://\u202eab/", "http://" + "a" * 70_000,
        "http://..", "http://a\\@b/", "http://\udcff/", "http://xn--a-ecp.ru-\u00ad.\u00ad", "http://*[",
        "http://me:pa/ss@127.0.0.1:9", "http://me:12/34@127.0.0.1:9", "http://me:pa?ss@127.0.0.1:9",
        "http://me:pa#ss@127.0.0.1:9", "http://me:pa ss@127.0.0.1:9",
    ],
)  # fmt: skip
def test_an_invalid_url_is_an_error_of_one_line(url):
    with pytest.raises(RopewalkError) as raised:
        CompletionsClient(url, timeout_s=5.0)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert "ss@" not in str(raised.value)
    assert "34@" not in str(raised.value)


SECRET = "p@ss:word"


@pytest.mark.parametrize("repeated", ["{url}", "{password}", "{encoded}", "{basic}", "{query}"])
def test_no_message_shows_a_password(repeated):
    """A server may repeat any form of it."""
    forms = {
        "url": f"http://me:{SECRET}@127.0.0.1/?api_key=k3y-k3y", "password": SECRET,
        "encoded": quote(SECRET, safe=""), "basic": base64.b64encode(f"me:{SECRET}".encode()).decode(),
        "query": "k3y-k3y",
    }  # fmt: skip
    reply = http_reply(repeated.format(**forms).encode(), status="404 No")
    with raw_server(reply) as url, pytest.raises(EngineError) as raised:
        CompletionsClient(url.replace("//", f"//me:{SECRET}@") + "/?api_key=k3y-k3y")
    said = str(raised.value)
    assert "127.0.0.1" in said
    assert not [form for form in forms.values() if form in said]


def test_a_password_and_a_query_reach_the_server(loaded, served, prompts):
    server = CompletionsServer(loaded.name, served.long)
    with server.running() as url:
        endpoint = CompletionsClient(url.replace("//", "//me:p%40ss@") + "/?api_key=k3y")
        endpoint.complete(prompts[0], 1)
    assert server.keys == {"Basic " + base64.b64encode(b"me:p@ss").decode()}
    assert server.queries == {"api_key=k3y"}
    assert "k3y" not in repr(endpoint.url)


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-schlüssel", "sk secret"])
def test_an_invalid_key_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SettingError, match="key") as raised:
        CompletionsClient("http://127.0.0.1:9")
    assert "secret" not in str(raised.value)


def test_an_invalid_proxy_is_an_error(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "gopher://me:secret@proxy:70")
    with pytest.raises(EngineError, match="HTTP_PROXY") as raised:
        CompletionsClient("http://example.invalid")
    assert "secret" not in str(raised.value)
