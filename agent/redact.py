"""Takes out of a text what must not leave the device: keys, tokens, passwords, credentials in addresses. Pure.

Three nets: secrets that are known by their value; places that hold secrets (a header, ``password = ...``, the query of
an address); and words that look drawn at random and are no digest. Where a net cannot tell, it takes out what stands
after a name that means a secret, and leaves alone a word that people can read. The work is linear in the text whatever
somebody had logged: no pattern begins with an unbounded run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, unquote

from agent.randomness import is_random

REMOVED = "[removed]"
SHORTEST_SECRET = 4
"""A shorter one would take letters out of every word."""
_PASSWORD = r"passw(?:or)?d|passphrase|secret|(?:api|private|access|account|shared)[_-]?key"
_MEANING = rf"(?:{_PASSWORD}|token|credential|cookie)[\w.-]{{0,64}}"
_IS_PASSWORD = re.compile(_PASSWORD, re.IGNORECASE)
_IS_NAME = re.compile(_MEANING, re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN [^\n-]{1,80}-----.*?(?:-----END [^\n-]{1,80}-----|\Z)", re.DOTALL)
_PEM_END = re.compile(r"-----END [^\n-]{1,80}-----")
_PEM_LINE = re.compile(r"[A-Za-z0-9+/=]{1,76}\s*\Z")
_USER_INFO = re.compile(r"(?<=://)[^\s/\"'<>]{1,512}@")
_USER_AT_HOST = re.compile(r"(?<![\w/@.+-])[\w.+-]{1,64}:[^\s@/:\"'<>]{1,256}@(?=[\w[])")
_QUERY = re.compile(r"(?<=[?&])([\w.~%-]{1,64}=)?[^\s&\"'<>#]{1,8192}")
_ADDRESS = re.compile(r"(?:https?|wss?|s3|gs|az)://[^\s?\"'<>]{1,2048}\?[^\s\"'<>]{1,16384}", re.IGNORECASE)
_SIGNED = re.compile(
    r"(?i)([?&;](?:x-(?:amz|goog|ms)-[\w-]{1,40}|sig|signature|awsaccesskeyid|googleaccessid|policy|code|token|key|auth)=)"
    r"[^\s&\"'<>#;]{1,8192}"
)
_HEADER = re.compile(r"(?i)\b((?:proxy-)?authorization|set-cookie|cookie)([\"']?\s{0,4}[:=]\s{0,4})[^\n]{1,16384}")
_SCHEME = re.compile(r"(?i)\b(bearer|negotiate|wg-es256)(\s{1,4})[\w+/=.~-]{8,16384}")
_BASIC = re.compile(r"\b([Bb]asic)(\s{1,4})(?=[A-Za-z0-9+/]{0,8192}[0-9=+/])[A-Za-z0-9+/]{8,8192}={0,2}")
_ASSIGNED = re.compile(
    rf"(?i)({_MEANING})([\"']?\s{{0,4}}[:=]\s{{0,4}})(\"[^\"\n]{{0,8192}}\"?|'[^'\n]{{0,8192}}'?|[^\s,;}}\])]{{1,8192}})"
)
_FLAG = re.compile(rf"(?i)((?<!\S)--?[\w.-]{{0,64}}{_MEANING}[ =])(\S{{1,8192}})")
_TOKEN = re.compile(
    r"\b(?:wg[a-z]_[\w-]{16,512}|eyJ[\w-]{4,8192}\.[\w-]{4,8192}\.[\w-]{0,8192}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|gh[a-z]_\w{20,255}|github_pat_\w{20,255}|glpat-[\w-]{16,255}|xox[a-z]-[\w-]{10,255}|sk-[\w-]{20,255})"
)
_WORD = re.compile(r"(?<![\w+/=-])[\w+/-]{32,8192}={0,2}")
_READABLE = re.compile(r"[A-Za-z]?[a-z]{0,18}[.:!]?\Z")


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """Return ``text`` without secrets.

    Args:
        text: of any form; lines of logs, TOML or JSON.
        secrets: values that must not be in it, in the clear or as they stand in a URL.
    """
    for secret in sorted({form for one in secrets for form in _forms(one)}, key=len, reverse=True):
        text = text.replace(secret, REMOVED)
    text = _PEM.sub(REMOVED, text)
    text = _without_key_ends(text)
    text = _USER_INFO.sub(f"{REMOVED}@", text)
    text = _USER_AT_HOST.sub(f"{REMOVED}@", text)
    text = _ADDRESS.sub(_without_query, text)
    text = _SIGNED.sub(rf"\1{REMOVED}", text)
    text = _HEADER.sub(rf"\1\2{REMOVED}", text)
    text = _SCHEME.sub(rf"\1\2{REMOVED}", text)
    text = _BASIC.sub(rf"\1\2{REMOVED}", text)
    text = _FLAG.sub(rf"\1{REMOVED}", text)
    text = _ASSIGNED.sub(_assigned, text)
    text = _TOKEN.sub(REMOVED, text)
    return _WORD.sub(lambda match: REMOVED if is_random(match[0]) else match[0], text)


def masked(value: Any, secrets: Collection[str] = (), *, is_secret: bool = False) -> Any:
    """Return plain values redacted at any depth; whatever stands under a name that means a secret is masked.

    Args:
        value: mappings, lists, texts, numbers.
        secrets: as for ``redact``.
        is_secret: whether the value stands under such a name.
    """
    match value:
        case Mapping():
            return {
                redact(str(name), secrets): masked(
                    one, secrets, is_secret=is_secret or bool(_IS_NAME.search(str(name)))
                )
                for name, one in value.items()
            }
        case list() | tuple():
            return [masked(one, secrets, is_secret=is_secret) for one in value]
        case None | bool():
            return value
        case _ if is_secret and value != "":
            return REMOVED
        case int() | float():
            return value
        case _:
            return redact(str(value), secrets)


def secrets_in(address: str) -> set[str]:
    """Return the password in an address such as a proxy's, and user and password together."""
    head, at, _ = address.partition("://")[2].rpartition("@")
    if not at:
        return set()
    password = head.partition(":")[2]
    return {part for part in (head, password, unquote(password)) if len(part) >= SHORTEST_SECRET}


def secrets_of(named: Mapping[str, Any]) -> set[str]:
    """Return what is secret among named values (settings, an environment): by their names, and in addresses.

    Args:
        named: name -> value, at any depth.
    """
    found: set[str] = set()
    for name, value in named.items():
        match value:
            case Mapping():
                found |= secrets_of(value)
            case list() | tuple():
                found |= secrets_of({f"{name}.{number}": one for number, one in enumerate(value)})
            case str():
                found |= secrets_in(value)
                if _IS_NAME.search(name) and len(value) >= SHORTEST_SECRET and not _READABLE.match(value):
                    found.add(value)
    return found


def _forms(secret: str) -> set[str]:
    return {secret, quote(secret, safe="")} if len(secret) >= SHORTEST_SECRET else set()


def _without_key_ends(text: str) -> str:
    """Take out the rest of a PEM block whose beginning was cut off."""
    kept, at = [], 0
    for match in _PEM_END.finditer(text):
        lines = text[at : match.start()].splitlines(keepends=True)
        while lines and _PEM_LINE.match(lines[-1]):
            lines.pop()
        kept += [*lines, REMOVED]
        at = match.end()
    return "".join((*kept, text[at:]))


def _without_query(match: re.Match[str]) -> str:
    address, _, query = match[0].partition("?")
    return address + _QUERY.sub(lambda one: (one[1] or "") + REMOVED, f"?{query}")


def _assigned(match: re.Match[str]) -> str:
    name, between, value = match[1], match[2], match[3]
    if value.startswith(REMOVED[:-1]):
        return match[0]
    is_sentence = ":" in between and value[0] not in "\"'" and not _IS_PASSWORD.search(name)
    if is_sentence and _READABLE.match(value):  # "ENROL_TOKEN_USED: The token was used.", and no token
        return match[0]
    if value.isdecimal() and len(value) < 7 and not _IS_PASSWORD.search(name):  # a count of tokens
        return match[0]
    quoted = value[0] if value[0] in "\"'" else ""
    return f"{name}{between}{quoted}{REMOVED}{quoted if value.endswith(quoted) else ''}"
