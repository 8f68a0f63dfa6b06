"""Every refusal the trust design names is made somewhere, and each says one sentence and what to do about it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bundles

PACKAGE = Path(bundles.__file__).parent
ERRORS = {"AskPerson", "BundleRefused", "MessageRefused", "Refused", "TrustRefused", "TryAgain"}
PROMISED = [
    "TRUST_ROOT_SIG",
    "TRUST_THRESHOLD",
    "TRUST_EXPIRED_",
    "TRUST_EXPIRED_DIRECTOR",
    "TRUST_EXPIRED_KIT",
    "TRUST_ROLLBACK_",
    "TRUST_ROLLBACK_DIRECTOR",
    "TRUST_ROLLBACK_KIT",
    "TRUST_ROLLBACK_REVOCATION",
    "TRUST_MIX",
    "TRUST_UNSIGNED_",
    "TRUST_UNSIGNED_DIRECTOR",
    "TRUST_UNSIGNED_KIT",
    "TRUST_NOT_LISTED",
    "TRUST_DIRECTOR_MISMATCH",
    "TRUST_WRONG_DEVICE",
    "TRUST_FLOOR",
    "TRUST_REVOKED",
    "TRUST_CHANNEL",
    "TRUST_HW",
    "TRUST_LENGTH",
    "TRUST_DIGEST",
    "TRUST_CLOCK",
    "TRUST_CACHE_CORRUPT",
    "TRUST_SLOW",
    "TRUST_DEMO_KEYS",
]
"""Codes of the trust design's list of device checks; one that ends in ``_`` is followed by a role's name."""


def text_of(node, constants):
    """Return a text in the source with ``x`` for what is filled in; what is handed in by a caller reads ``X.``."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join("x" if isinstance(part, ast.FormattedValue) else str(part.value) for part in node.values)
    if isinstance(node, ast.Name):
        return text_of(constants[node.id], constants) if node.id in constants else "X."
    return ""


def refusals():
    """Return (place, codes, sentence, remedy) of every error made in ``bundles`` with a ``TRUST_*`` code."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS:
                code = next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)
                texts = [node.value for node in ast.walk(code or call) if isinstance(node, ast.Constant)]
                codes = {text for text in texts if isinstance(text, str) and text.startswith("TRUST_")}
                if code is not None and codes:
                    remedy = next((keyword.value for keyword in call.keywords if keyword.arg == "remedy"), None)
                    texts = [text_of(node, constants) for node in (call.args[0], remedy)]
                    found.append((f"{path.relative_to(PACKAGE)}:{call.lineno}", codes, *texts))
    return found


FOUND = refusals()


@pytest.mark.parametrize("code", PROMISED)
def test_code_of_the_design_is_given_somewhere(code):
    given = {found for _, codes, *_ in FOUND for found in codes}
    assert code in given


@pytest.mark.parametrize(("place", "codes", "sentence", "remedy"), FOUND, ids=[place for place, *_ in FOUND])
def test_refusal_says_one_sentence_and_a_remedy(place, codes, sentence, remedy):
    assert sentence.endswith((".", "x")), place
    assert sentence[:1].isupper() or sentence.startswith(("x", "'")), place
    assert ". " not in sentence, f"{place} says more than one sentence"
    assert remedy.endswith("."), f"{place} names no remedy"


def test_the_walk_sees_what_is_there():
    assert len(FOUND) > 40
    assert {"trust/device/checks.py", "trust/refusals.py", "trust/device/kit.py"} <= {
        place.partition(":")[0] for place, *_ in FOUND
    }
