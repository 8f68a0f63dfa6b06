"""Signers whose private key is no file of ours: hardware modules (PKCS#11) and the key services of clouds, by URI.

``securesystemslib`` speaks to them; each needs a package of its own, which is imported only when such a key is used.
Whatever goes wrong there leaves here as one error that says what to install or to set. A PIN is asked for through the
caller and never stands in a URI or on a command line.

Only ECDSA P-256 and Ed25519 keys are taken, the two kinds every device can check.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlparse

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (
    AWSSigner,
    AzureSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signature,
    Signer,
    SSlibKey,
    VaultSigner,
)

from bundles.errors import AskPerson

Pin = Callable[[str], str | None]
"""Asked for the PIN of the key behind a URI; None = there is none to be had."""
NEEDS = {
    "hsm": "securesystemslib[hsm]",
    "awskms": "securesystemslib[awskms]",
    "gcpkms": "securesystemslib[gcpkms]",
    "azurekms": "securesystemslib[azurekms]",
    "hv": "securesystemslib[vault]",
}
"""URI scheme -> the package that signs with it."""
SCHEMES = frozenset({"ecdsa-sha2-nistp256", "ed25519"})
MODULE_VARIABLE = "PYKCS11LIB"
"""Where ``securesystemslib`` looks for the path of the PKCS#11 module."""


def no_pin(_: str) -> str | None:
    """Answer as somebody who knows no PIN."""
    return None


def is_remote(place: str) -> bool:
    """Whether ``place`` is the URI of a key that is not in a file."""
    return place.partition(":")[0] in NEEDS and ":" in place


class RemoteSigner(Signer):
    """Signs with a key behind a URI; its errors are ours.

    Attributes:
        uri: the key's.
    """

    def __init__(self, uri: str, inner: Signer) -> None:
        """Wrap ``inner``, the signer of ``securesystemslib`` for ``uri``."""
        self.uri, self._inner = uri, inner

    @property
    def public_key(self) -> Key:
        """The public half."""
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None) -> RemoteSigner:
        """Open ``priv_key_uri``; part of the interface of ``securesystemslib``."""
        return cls(priv_key_uri, Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler))

    def sign(self, payload: bytes) -> Signature:
        """Sign ``payload``.

        Raises:
            AskPerson: ``KEY_UNUSABLE`` or ``KEY_PIN``; also where the signature does not verify with the public half,
                which means that the URI leads to another key.
        """
        try:
            signature = self._inner.sign(payload)
            self.public_key.verify_signature(signature, payload)
        except Exception as error:  # every key behind a URI has its own family of errors
            raise _explain(self.uri, error) from error
        return signature


def load_remote_signer(uri: str, public: Key, pin: Pin = no_pin) -> Signer:
    """Return the signer of a key whose public half is known. Nothing is signed, no hardware is touched yet.

    Args:
        uri: such as ``hsm:2?label=release`` or ``awskms:alias/team``.
        public: the public half, from a ``.pub`` file or the delegating role.
        pin: answers for the PIN, if the key has one.

    Raises:
        AskPerson: ``KEY_UNSUPPORTED`` or ``KEY_UNUSABLE``.
    """
    check_scheme(uri, public)
    _check_settings(uri)
    try:
        return RemoteSigner.from_priv_key_uri(uri, public, _secrets(uri, pin))
    except Exception as error:  # as above
        raise _explain(uri, error) from error


def import_key(uri: str, pin: Pin = no_pin) -> tuple[str, Key]:
    """Ask the hardware or the service behind ``uri`` for the public half of its key.

    Args:
        uri: as for ``load_remote_signer``; a part left out (the token's label, a key's version) is filled in.
        pin: answers for the PIN, if the public half is shown only to who knows it.

    Returns:
        The whole URI, to be kept, and the public key.

    Raises:
        AskPerson: ``KEY_UNSUPPORTED``, ``KEY_UNUSABLE`` or ``KEY_PIN``.
    """
    _check_settings(uri)
    try:
        whole, public = _import(uri, pin)
    except AskPerson:
        raise
    except Exception as error:  # as above
        raise _explain(uri, error) from error
    check_scheme(uri, public)
    return whole, public


def check_scheme(uri: str, public: Key) -> None:
    """Refuse a key of a kind that not every device can check.

    Raises:
        AskPerson: ``KEY_UNSUPPORTED``.
    """
    if public.scheme not in SCHEMES:
        raise AskPerson(
            f"The key {uri} signs as {public.scheme}.",
            code="KEY_UNSUPPORTED",
            remedy="Make an ECDSA P-256 (or Ed25519) key there and use that.",
        )


def _import(uri: str, pin: Pin) -> tuple[str, SSlibKey]:
    parts = urlparse(uri)
    match parts.scheme:
        case "hsm":
            number = int(parts.path) if parts.path else None
            return HSMSigner.import_(number, dict(parse_qsl(parts.query)).get("label"), _secrets(uri, pin))
        case "awskms":
            return AWSSigner.import_(parts.path)
        case "gcpkms":
            return GCPSigner.import_(parts.path)
        case "azurekms":
            # azurekms://VAULT.vault.azure.net/keys/NAME[/VERSION]
            name = parts.path.removeprefix("/keys/").partition("/")[0]
            return AzureSigner.import_(parts.netloc.partition(".")[0], name)
        case "hv":
            return VaultSigner.import_(parts.path.partition("/")[0])
        case other:
            raise ValueError(f"no key has a URI that begins with {other}:")


def _check_settings(uri: str) -> None:
    scheme = uri.partition(":")[0]
    if scheme == "hsm" and not os.environ.get(MODULE_VARIABLE):
        raise AskPerson(
            "Which PKCS#11 module to sign with is not known.",
            code="KEY_UNUSABLE",
            remedy=f"Set {MODULE_VARIABLE} to the module's file, such as /usr/lib/softhsm/libsofthsm2.so.",
        )


def _secrets(uri: str, pin: Pin) -> Callable[[str], str]:
    def answer(_: str) -> str:
        given = pin(uri)
        if given is None:
            raise AskPerson(
                f"The key {uri} needs a PIN, and none was given.",
                code="KEY_PIN",
                remedy="Set WAVEGATE_HSM_PIN or use --pin-file.",
            )
        return given

    return answer


def _explain(uri: str, error: Exception) -> AskPerson:
    """Return what a person can do about ``error``, raised by the signer behind ``uri``."""
    if isinstance(error, AskPerson):
        return error
    scheme, kind = uri.partition(":")[0], type(error).__name__
    if isinstance(error, UnsupportedLibraryError):
        return AskPerson(
            f"The package that signs with {scheme}: keys is not installed.",
            code="KEY_UNSUPPORTED",
            remedy=f"Install it: pip install '{NEEDS.get(scheme, 'securesystemslib')}'",
        )
    if kind in ("PinIncorrect", "PinInvalid", "PinLenRange", "PinLocked", "PinExpired"):  # of python-pkcs11
        return AskPerson(
            f"The token of {uri} refuses the PIN ({kind}).",
            code="KEY_PIN",
            remedy="Check WAVEGATE_HSM_PIN or --pin-file before trying again: a token locks itself after a few.",
        )
    return AskPerson(
        f"The key {uri} cannot be used: {str(error).rstrip('.') or kind}.",
        code="KEY_UNUSABLE" if scheme in NEEDS else "KEY_UNSUPPORTED",
        remedy="Check the URI, that the hardware or service answers, and that the public half is that key's.",
    )
