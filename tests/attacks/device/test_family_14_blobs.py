"""Attack 14: the content that arrives is not the content that was signed."""

import pytest

from bundles.digest import sha256_hex


def model_file(lab):
    return lab.better.file_with_role("model")


def flip(lab, device):
    """A new, honest release; the server sends its model with the lowest bit of one weight changed."""
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    content = bytearray(lab.front.blobs[model_file(lab).sha256])
    content[len(content) // 2] ^= 1
    lab.front.answers[f"/v1/blobs/sha256/{model_file(lab).sha256}"] = bytes(content)
    device.poll()
    for _ in range(5):
        device.later(600)


def runs_what_nobody_signed(lab, device):
    slots = [slot for slot in (device.folder / "slots").iterdir() if (slot / model_file(lab).path).exists()]
    digests = {sha256_hex((slot / model_file(lab).path).read_bytes()) for slot in slots}
    return device.running() == "2.0.0" and model_file(lab).sha256 not in digests


def commit_unchecked(attempt, source, url):
    attempt._receive(source, url)
    attempt._part.commit()


def test_attack_14_flipped_blob(attack):
    lab, device = attack(flip, "DOWNLOAD_DIGEST", is_instructed=True)
    lab.front.answers.clear()
    lab.assign(lab.wanted("2.0.0"), rollout="again")
    device.poll()
    assert device.running() == "2.0.0", "the honest content is still taken"


def test_attack_14_flipped_blob_has_teeth(with_teeth):
    """The digest is checked as bytes arrive, once more from disk, and in the slot: all three are taken away."""
    with_teeth(
        flip,
        runs_what_nobody_signed,
        {
            "agent.download.blob._Arrival.run": commit_unchecked,
            "agent.store.blobs.Blobs.verify": lambda store, sha256, files: None,
            "agent.store.slots.Slots.check_slot": lambda store, *_: None,
        },
    )


def honest_release(lab):
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    return f"/v1/blobs/sha256/{model_file(lab).sha256}"


def work_on_it(device):
    device.poll()
    for _ in range(5):
        device.later(600)


def cut(lab, device):
    """The model ends early, and the server says that this is all of it."""
    path = honest_release(lab)
    lab.front.answers[path] = lab.front.blobs[model_file(lab).sha256][:-1]
    work_on_it(device)


def swap(lab, device):
    """The blob of another file of another release."""
    path = honest_release(lab)
    lab.front.answers[path] = lab.front.blobs[lab.base.file_with_role("model").sha256]
    work_on_it(device)


def change_between_check_and_use(lab, device):
    """Whoever can write to the device's disk waits until the blob was verified, and then changes it."""
    honest_release(lab)
    store = device.agent.device.parts.store
    original = store.verify

    def verified_then_changed(sha256, files):
        original(sha256, files)
        store.verify = original
        for path in (device.folder / "blobs").rglob(model_file(lab).sha256):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.chmod(0o600)
            path.write_bytes(content)

    store.verify = verified_then_changed
    work_on_it(device)


@pytest.mark.parametrize("script", [cut, swap])
def test_attack_14_content_is_not_what_was_signed(attack, script):
    attack(script, "DOWNLOAD_LENGTH", is_instructed=True)


def test_attack_14_content_changed_between_check_and_use(lab):
    """It is told and not run; the honest content is fetched again and takes its place."""
    device = lab.device()
    change_between_check_and_use(lab, device)
    assert "STORE_CORRUPT" in device.codes()
    assert device.running() == "2.0.0"
    assert not runs_what_nobody_signed(lab, device)


def slot_of(device, sha256):
    return next(
        s for s in (device.folder / "slots").iterdir() if sha256_hex((s / "bundle.json").read_bytes()) == sha256
    )


def tampered_at_rest(change):
    def script(lab, device):
        device.stop()
        path = slot_of(device, lab.wanted("1.1.0").sha256) / lab.base.file_with_role("model").path
        change(lab, path)
        device.start()
        device.later(600)

    return script


def flip_on_disk(lab, path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def link_elsewhere(lab, path):
    other = path.parents[3] / "theirs.onnx"
    other.write_bytes(lab.front.blobs[lab.better.file_with_role("model").sha256])
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [flip_on_disk, link_elsewhere])
def test_attack_14_the_active_slot_was_changed_while_the_device_was_off(lab, change):
    """Step 17: what runs is hashed again at every start; a changed file is not run, an honest one takes its place."""
    device = lab.device()
    before = device.snapshot()
    tampered_at_rest(change)(lab, device)
    after = device.snapshot()
    assert "STORE_CORRUPT" in device.codes()
    assert after.answer == before.answer
