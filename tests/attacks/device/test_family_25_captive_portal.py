"""Attack 25: something else answers in the server's place: a sign-in page with status 200, or 403 to everything.

TLS keeps a portal out; these are servers that hold the right certificate (a broken ingress, a hostile one).
"""

import pytest

PAGE = b"<!DOCTYPE html><html><body>Please sign in to continue</body></html>"
PATHS = ("/v1/device/desired", "/v1/time", "/metadata/timestamp.json", "/metadata/2.root.json", "/v1/device/reports")


def html(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.send_header("Content-Length", str(len(PAGE)))
    handler.end_headers()
    handler.wfile.write(PAGE)


def answering(answer):
    def script(lab, device):
        lab.assign(lab.publish("2.0.0", 6, base=lab.better))
        lab.front.answers = dict.fromkeys(PATHS, answer)
        device.refresh()
        device.poll()

    return script


def page_for_a_blob(lab, device):
    """Of the very length the model should have."""
    model = lab.better.file_with_role("model")
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    lab.front.answers[f"/v1/blobs/sha256/{model.sha256}"] = PAGE.ljust(model.length)
    device.poll()
    for _ in range(3):
        device.later(600)


@pytest.mark.parametrize(("answer", "code"), [(html, "CAPTIVE_PORTAL"), (403, "METADATA_UNREACHABLE")])
def test_attack_25_everything_is_answered_by_somebody_else(attack, answer, code):
    lab, device = attack(answering(answer), code)
    lab.front.answers.clear()
    device.later(24 * 3600)
    device.refresh()
    device.poll()
    assert device.running() == "2.0.0", "the honest server is still followed"


def test_attack_25_a_page_in_place_of_a_blob(attack):
    attack(page_for_a_blob, "DOWNLOAD_DIGEST", is_instructed=True)


def test_attack_25_has_teeth(with_teeth):
    """Were content not measured and hashed, the sign-in page would be installed as the model."""

    def commit_unchecked(attempt, source, url):
        attempt._receive(source, url)
        attempt._part.commit()

    def was_taken_for_the_model(lab, device):
        """Nothing but the trial of the model itself still stands between the page and an inference."""
        return "TRIAL_LOAD" in device.codes()

    disabled = {
        "agent.download.blob._Arrival.run": commit_unchecked,
        "agent.store.blobs.Blobs.verify": lambda store, sha256, files: None,
        "agent.store.slots.Slots.check_slot": lambda store, *_: None,
    }
    with_teeth(page_for_a_blob, was_taken_for_the_model, disabled)
