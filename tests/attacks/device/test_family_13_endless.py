"""Attack 13: whoever is in between sends more than was signed, never ends, drips, or sends a little that swells.

What the attacker wants: a device without memory, disk or time left. Nothing is trusted, so nothing needs a key.
"""

import gzip
import tracemalloc

import pytest

PIECE = b" " * 65_536
ENOUGH = 64 * 1024 * 1024
"""Bytes after which the sender gives up: a device that took them all has no bound."""
SWELLING = gzip.compress(b" " * ENOUGH)


def endless(lab):
    def send(handler):
        handler.send_response(200)
        handler.send_header("WG-Nonce", "n")
        handler.end_headers()
        lab.sent = 0
        while lab.sent < ENOUGH:
            handler.wfile.write(PIECE)
            lab.sent += len(PIECE)

    return send


def endless_timestamp(lab, device):
    lab.sent = 0
    lab.front.answers["/metadata/timestamp.json"] = endless(lab)
    device.refresh()


def endless_blob(lab, device):
    lab.sent = 0
    wanted = lab.publish("2.0.0", 6, base=lab.better)
    model = lab.better.file_with_role("model").sha256
    lab.front.answers[f"/v1/blobs/sha256/{model}"] = endless(lab)
    lab.assign(wanted)
    device.poll()
    for _ in range(5):
        device.later(600)


def swelling_timestamp(lab, device):
    """64 MiB in 64 KiB: compressed, for a client that unpacks by itself."""

    def send(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(SWELLING)))
        handler.end_headers()
        handler.wfile.write(SWELLING)

    lab.front.answers["/metadata/timestamp.json"] = send
    device.refresh()


def took_it_all(lab, device):
    return getattr(lab, "sent", 0) >= ENOUGH


@pytest.mark.parametrize(("script", "code"), [(endless_timestamp, "TRUST_LENGTH"), (endless_blob, "DOWNLOAD_LENGTH")])
def test_attack_13_endless(attack, script, code):
    lab, _ = attack(script, code, is_instructed=True)
    assert not took_it_all(lab, None)


def test_attack_13_endless_timestamp_has_teeth(with_teeth):
    with_teeth(endless_timestamp, took_it_all, {"bundles.trust.fetch.length_limit": lambda name: 1 << 40})


def peak_bytes(script, lab, device):
    tracemalloc.start()
    script(lab, device)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def swelling_timestamp_measured(lab, device):
    lab.peak = peak_bytes(swelling_timestamp, lab, device)


def test_attack_13_swelling(attack):
    lab, _ = attack(swelling_timestamp_measured, "ANSWER_COMPRESSED")
    assert lab.peak < ENOUGH // 4


def test_attack_13_swelling_has_teeth(with_teeth):
    def has_swollen(lab, device):
        return getattr(lab, "peak", 0) >= ENOUGH // 4

    with_teeth(swelling_timestamp_measured, has_swollen, {"agent.https.check_plain": lambda answer: None})
