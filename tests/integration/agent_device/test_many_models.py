"""Several models on one device, updated at the same time: one store, and nobody's blobs or slots in another's hands."""

import threading

MODELS = ["vision/digits", "vision/letters", "vision/signs"]


def test_models_that_update_at_once_end_on_their_own_releases(rig):
    releases = {
        model: [rig.release(n, model.split("/")[1], size=300_000) for n in range(1, 5)]
        for model in MODELS
    }  # fmt: skip
    for n in range(4):
        for model in MODELS:
            rig.ask(releases[model][n], model)
        for model in MODELS:
            rig.settle("confirmed", releases[model][n].sha256, model)
    for model in MODELS:
        assert rig.answer(model) == releases[model][-1].sha256
        for release in releases[model][-2:]:  # committed and previous-good of each
            rig.store.check_slot(release.sha256, rig.archives[release.sha256].manifest.files)
    assert len(list((rig.disk / "slots").iterdir())) <= 3 * len(MODELS)
    rig.restart()
    for model in MODELS:
        rig.until(lambda model=model: rig.answer(model) == releases[model][-1].sha256, f"{model} after a start")


def test_collecting_garbage_of_one_model_leaves_the_download_of_another_alone(rig):
    first = [rig.release(n) for n in (1, 2, 3)]
    other = rig.release(7, "letters", size=200_000)
    rig.install(first[0])
    files = rig.archives[other.sha256].manifest.files
    model_file = next(entry.sha256 for entry in files if entry.role == "model")
    rig.gates[model_file] = threading.Event()
    rig.ask(other, "vision/letters")
    rig.until(lambda: rig.asked[model_file], "the other model downloads")
    rig.install(first[1], first[2])  # each commit collects
    rig.store.collect_garbage(())  # and this one would keep nothing at all
    rig.gates[model_file].set()
    rig.settle("confirmed", other.sha256, "vision/letters")
    assert [rig.asked[entry.sha256] for entry in files if entry.role == "model"] == [1]
    assert rig.answer("vision/letters") == other.sha256
    assert rig.answer() == first[2].sha256


def test_a_blob_that_two_models_share_is_fetched_once_and_whole(rig):
    releases = {model: rig.release(1, model.split("/")[1]) for model in MODELS[:2]}
    goldens = rig.archives[releases[MODELS[0]].sha256].manifest.file_with_role("goldens").sha256
    rig.gates[goldens] = threading.Event()
    for model, release in releases.items():
        rig.ask(release, model)
    rig.until(lambda: rig.asked[goldens], "one of them fetches the goldens")
    rig.gates[goldens].set()
    for model, release in releases.items():
        rig.settle("confirmed", release.sha256, model)
    assert rig.asked[goldens] == 1


def test_releases_with_the_same_goldens_and_contract_hold_one_blob_of_each(rig):
    releases = [rig.release(n, size=50_000) for n in (1, 2)]
    rig.install(*releases)
    manifests = [rig.archives[release.sha256].manifest for release in releases]
    shared = [manifests[0].file_with_role(role) for role in ("goldens", "contract")]
    assert shared == [manifests[1].file_with_role(role) for role in ("goldens", "contract")]
    blobs = {path.name: path.stat() for path in (rig.disk / "blobs" / "sha256").iterdir()}
    models = sum(manifest.file_with_role("model").length for manifest in manifests)
    assert sum(stat.st_size for stat in blobs.values()) == (
        models + sum(entry.length for entry in shared) + sum(release.length for release in releases)
    )
    # Both slots are further names of the same content: blob, slot, slot.
    assert [blobs[entry.sha256].st_nlink for entry in shared] == [3, 3]
    slots = [path for path in (rig.disk / "slots").rglob("*") if path.is_file() and path.name != "bundle.json"]
    inodes = {stat.st_ino for stat in blobs.values()}
    assert {path.stat().st_ino for path in slots} <= inodes, "slots cost no bytes beside their manifests"
