"""HTTP exchanges with an untrusted server: limited in bytes and in time, with one host, without compression.

A reply may have MAX_BYTES. A compressed reply is refused, because a few bytes can expand to many. The time
limit is for the whole exchange: connecting, headers and body. Redirects are not followed. The key, a password
and the values of a URL's query are never shown in a message.
"""

import asyncio
import base64
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import httpx2

from ropewalk.errors import EngineError, SettingError

MAX_BYTES = 4 * 2**20  # enough for eight tokens with their likeliest, and a repeated prompt of a million
CONNECT_SECONDS = 30.0
SHOWN_CHARACTERS = 300
LONGEST_URL = 2000
FAILURES = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError, UnicodeError)
# Proxies and certificates of the environment: an unknown scheme, a missing package, a missing file.
MISCONFIGURED = (httpx2.InvalidURL, OSError, ValueError, ImportError)


class RefusedError(EngineError):
    """The server replies with an error.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server's address and login.

    Attributes:
        url: the interface's URL, which ends with `/v1`, without a password.
        shown: the URL without the query, for messages.
        authorization: the header for the user and the password in the URL; None without them.
        secrets: texts that no message may show.
    """

    url: httpx2.URL = field(repr=False)
    shown: str
    authorization: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse a URL with or without `/v1`, and with or without a user and a password before the host.

        Raises:
            SettingError: not a URL of a server. The message shows nothing that may be a password.
        """
        parts = _split(text)
        path = parts.path.rstrip("/")
        path = path if path.endswith("/v1") else f"{path}/v1"
        login, _, host = parts.netloc.rpartition("@")
        try:
            url = httpx2.URL(f"{parts.scheme}://{host}{path}")
            url = url.copy_with(query=parts.query.encode() or None)
        except (httpx2.InvalidURL, UnicodeError):
            raise _no_url(f"the host or path of {host[:SHOWN_CHARACTERS]!r} is invalid") from None
        user, _, password = login.partition(":")
        plain = f"{unquote(user)}:{unquote(password)}"
        encoded = base64.b64encode(plain.encode()).decode()
        values = [pair.partition("=")[2] for pair in parts.query.split("&")]
        logins = (login, unquote(login), password, unquote(password), encoded) if login else ()
        known = {*logins, parts.query, *values}
        return cls(
            url=url,
            shown=f"{parts.scheme}://{host}{path}",
            authorization=f"Basic {encoded}" if login else None,
            secrets=tuple(sorted(filter(None, known), key=len, reverse=True)),
        )


def _split(text: str) -> SplitResult:
    if len(text) > LONGEST_URL:
        raise _no_url(f"it has more than {LONGEST_URL} characters")
    if not text.isprintable() or " " in text or "\\" in text:
        raise _no_url("it has a space, a backslash or an unprintable character")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise _no_url("its host or its port is invalid") from None
    if parts.scheme not in ("http", "https"):
        raise _no_url("it does not begin with http:// or https://")
    if not host or port == 0:
        raise _no_url("it has no host, or port 0")
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise _no_url("it has an @ after the host: write / ? # @ in a password as %2F %3F %23 %40")
    return parts


def _no_url(reason: str) -> SettingError:
    return SettingError(
        f"--endpoint is not a URL of a server ({reason}): give one like http://localhost:8000."
    )


def _misconfigured(error: object) -> EngineError:
    return EngineError(
        f"The proxies or certificates of the environment can't be used ({error}): correct or unset "
        f"HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE."
    )


class HttpClient:
    """Exchanges JSON with one server, within the limits of this module.

    Args:
        key: sent as a bearer token, unless the URL has a password.
        timeout_s: the longest time of one exchange, in seconds.

    Raises:
        SettingError: not a URL, or a key that is not a valid HTTP header.
        EngineError: certificates that can't be read.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float) -> None:
        self._address = Address.parse(url)
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise SettingError("The key has a space or a character that is not ASCII: set it again.")
        self._secrets = (*self._address.secrets, *([key] if key else []))
        self._timeout_s = timeout_s
        bearer = f"Bearer {key}" if key else None
        authorization = self._address.authorization or bearer
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self.url = self._address.shown
        try:
            self._certificates = httpx2.create_ssl_context()
        except MISCONFIGURED as error:
            raise _misconfigured(error) from None

    async def exchange(self, method: str, path: str, document: Any = None) -> bytes:
        """Send a request and return the body of the reply.

        Args:
            path: below `/v1`.
            document: the body of the request, as JSON values.

        Raises:
            RefusedError: the HTTP status is an error; the message quotes the reply.
            EngineError: there is no reply, or it exceeds a limit.
        """
        url = self._address.url.copy_with(path=self._address.url.path + path)
        content = {} if document is None else {"json": document}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client() as client,
                client.stream(method, url, **content) as response,
            ):
                body = await self._read(response)
        except (TimeoutError, httpx2.TimeoutException):
            raise EngineError(
                f"{self.url} timed out: it sent no whole reply in {self._timeout_s:g} s. Is it overloaded?"
            ) from None
        except FAILURES as error:
            raise EngineError(
                f"{self.url} can't be reached ({self.redacted(error)}): is the server running?"
            ) from None
        if response.is_success:
            return body
        raise RefusedError(self._refusal(response, body), response.status_code)

    def _client(self) -> httpx2.AsyncClient:
        timeout = httpx2.Timeout(self._timeout_s, connect=min(CONNECT_SECONDS, self._timeout_s))
        try:
            return httpx2.AsyncClient(
                timeout=timeout, headers=self._headers, verify=self._certificates, follow_redirects=False
            )
        except MISCONFIGURED as error:
            raise _misconfigured(self.redacted(error)) from None

    def _refusal(self, response: httpx2.Response, body: bytes) -> str:
        if response.has_redirect_location:
            target = self.redacted(response.headers["Location"])
            return f"{self.url} redirects to {target}, which is not followed: give that URL if you trust it"
        text = self.redacted(body.decode("utf-8", errors="replace")) or "the reply has no text"
        return f"{self.url} replies with the HTTP status {response.status_code}: {text}"

    async def _read(self, response: httpx2.Response) -> bytes:
        coding = response.headers.get("Content-Encoding", "identity")
        if coding.strip().lower() != "identity":
            raise EngineError(f"{self.url} compresses its reply, although the request forbids it.")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BYTES:
                raise EngineError(f"{self.url} sends a reply of more than {MAX_BYTES // 2**20} MiB.")
        return bytes(body)

    def redacted(self, message: object) -> str:
        """A message in one line, truncated, and without secrets, which some servers repeat."""
        text = str(message)
        for secret in self._secrets:
            for form in (secret, quote(secret, safe="")):
                text = text.replace(form, "***")
        return " ".join(text.split())[:SHOWN_CHARACTERS] or type(message).__name__
