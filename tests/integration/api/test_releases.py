"""Publishing and approving over HTTP: idempotent by digest, two people, and every bad bundle told by its code."""

from __future__ import annotations

import json

import pytest
from sqlmodel import select

from bundles.archive import add_metadata, open_archive
from control_plane.auth import Role
from control_plane.db.tables import Decision, Release


def test_a_signed_bundle_becomes_a_release_its_blobs_and_its_metadata(api):
    path = api.bundle("1.0.0", 1)
    answer = api.publish(path)
    archive = open_archive(path)
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert (view["sha256"], view["stage"], view["publisher"]) == (archive.sha256, "registered", "ada")
    assert view["baseline_sha256"] == archive.manifest.file_with_role("baseline").sha256
    assert api.blobs.has(archive.sha256), "the manifest is a blob as well"
    assert all(api.blobs.has(entry.sha256) for entry in archive.manifest.files)
    assert api.repository.listed() == {"vision/digits/1.0.0/bundle.json": archive.sha256}
    shown = api.viewer.get(f"/api/v1/releases/{archive.sha256}").json()
    assert shown["manifest"]["variants"][0]["id"] == "onnx"


def test_publishing_the_same_bundle_again_changes_nothing(api):
    path = api.bundle("1.0.0", 1)
    first, again = api.publish(path), api.publish(path)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    with api.db.read() as session:
        assert len(session.exec(select(Decision).where(Decision.action == "release.publish")).all()) == 1


def test_a_publication_that_stopped_halfway_is_completed_by_the_next(api):
    path = api.bundle("1.0.0", 1)
    archive = open_archive(path)
    api.repository.publish(archive.metadata)  # the server died here: listed, but no release row yet
    answer = api.publish(path)
    assert answer.status_code == 201, answer.text
    assert api.blobs.has(archive.sha256)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def _changed(path):
    path.write_bytes(path.read_bytes().replace(b"model", b"m0del", 1))


def _garbage(path):
    path.write_bytes(b"not a bundle")


@pytest.mark.parametrize(
    ("damage", "code"), [(_truncated, "BUNDLE_ARCHIVE"), (_changed, "BUNDLE_ARCHIVE"), (_garbage, "BUNDLE_ARCHIVE")]
)
def test_a_damaged_bundle_is_refused_and_leaves_nothing(api, damage, code):
    path = api.bundle("1.0.0", 1)
    damage(path)
    answer = api.publish(path)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["remedy"]
    assert api.repository.listed() == {}
    assert api.viewer.get("/api/v1/releases").json() == {"items": [], "next": ""}


def test_an_unsigned_bundle_is_refused(api):
    answer = api.publish(api.bundle("1.0.0", 1, signed=False))
    assert (answer.status_code, answer.json()["code"]) == (422, "TRUST_UNSIGNED_TEAM")
    with api.db.read() as session:
        assert session.exec(select(Release)).all() == []


def test_a_bundle_signed_by_another_teams_key_is_refused(api):
    path = api.bundle("1.0.0", 1, signed=False)
    other = open_archive(api.bundle("1.0.0", 1, team="audio"))
    add_metadata(open_archive(path), path, other.metadata)
    answer = api.publish(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "TRUST_NOT_LISTED")


def test_another_bundle_under_a_known_version_or_counter_is_refused(api):
    api.publish(api.bundle("1.0.0", 1))
    version = api.publish(api.bundle("1.0.0", 2, content=b"other", signed=False))
    counter = api.publish(api.bundle("1.1.0", 1, content=b"other", signed=False))
    assert (version.status_code, version.json()["code"]) == (409, "RELEASE_EXISTS")
    assert (counter.status_code, counter.json()["code"]) == (409, "RELEASE_COUNTER")


def test_a_signature_made_on_old_metadata_is_refused_as_a_conflict(api):
    early, late = api.bundle("1.0.0", 1), api.bundle("1.1.0", 2)
    assert api.publish(late).status_code == 201
    answer = api.publish(early)
    assert (answer.status_code, answer.json()["code"]) == (409, "TRUST_CONFLICT")


def test_a_body_over_the_limit_or_of_another_kind_is_refused(api):
    large = api.operator.post(
        "/api/v1/releases", content=b"x" * ((1 << 20) + 1), headers={"Content-Type": "application/octet-stream"}
    )
    other = api.operator.post("/api/v1/releases", json={})
    assert (large.status_code, large.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert (other.status_code, other.json()["code"]) == (415, "MEDIA_TYPE")
    assert list(api.folder.glob("upload-*")) == []


def test_an_idempotency_key_answers_again_and_is_bound_to_its_request(api):
    path = api.bundle("1.0.0", 1)
    first = api.publish(path, **{"Idempotency-Key": "k1"})
    again = api.publish(path, **{"Idempotency-Key": "k1"})
    assert (again.status_code, again.content) == (first.status_code, first.content) == (201, first.content)
    other = api.publish(api.bundle("1.1.0", 2), **{"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")


def test_the_publisher_may_not_approve_and_another_person_may(api):
    sha256 = api.publish(api.bundle("1.0.0", 1), api.approver).json()["sha256"]
    own = api.approver.post(f"/api/v1/releases/{sha256}/approve")
    assert (own.status_code, own.json()["code"]) == (403, "FOUR_EYES")
    other = api.client("carl", Role.APPROVER).post(f"/api/v1/releases/{sha256}/approve", json={"comment": "looks well"})
    assert other.status_code == 200
    assert (other.json()["stage"], other.json()["approver"], other.json()["comment"]) == (
        "approved",
        "carl",
        "looks well",
    )


def test_a_rejected_release_stays_rejected(api):
    sha256 = api.publish(api.bundle("1.0.0", 1)).json()["sha256"]
    assert api.approver.post(f"/api/v1/releases/{sha256}/reject").json()["stage"] == "rejected"
    assert api.approver.post(f"/api/v1/releases/{sha256}/reject").status_code == 200
    answer = api.approver.post(f"/api/v1/releases/{sha256}/approve")
    assert (answer.status_code, answer.json()["code"]) == (409, "RELEASE_STAGE")


def test_a_team_sees_and_touches_its_own_releases_only(api):
    sha256 = api.approved()
    stranger = api.client("sam", Role.ADMIN, teams=("audio",))
    assert stranger.get("/api/v1/releases").json()["items"] == []
    assert stranger.get(f"/api/v1/releases/{sha256}").json()["code"] == "TEAM_REQUIRED"
    assert stranger.post(f"/api/v1/releases/{sha256}/reject").json()["code"] == "TEAM_REQUIRED"
    assert api.publish(api.bundle("2.0.0", 2), stranger).json()["code"] == "TEAM_REQUIRED"


def test_releases_come_in_pages(api):
    made = []
    for n in range(1, 4):
        api.clock.now += 1000
        made.append(api.publish(api.bundle(f"{n}.0.0", n)).json()["sha256"])
    first = api.viewer.get("/api/v1/releases", params={"limit": 2}).json()
    rest = api.viewer.get("/api/v1/releases", params={"limit": 2, "cursor": first["next"]}).json()
    assert [item["sha256"] for item in first["items"] + rest["items"]] == made[::-1]
    assert rest["next"] == ""
    broken = api.viewer.get("/api/v1/releases", params={"cursor": "nonsense"})
    assert (broken.status_code, broken.json()["code"]) == (404, "CURSOR_INVALID")


def test_a_bundle_whose_listing_says_otherwise_is_not_published(api):
    """A device compares the signed listing with the manifest, so the registry does too."""
    path = api.bundle("1.0.0", 1)
    archive = open_archive(path)
    name, data = next(iter(archive.metadata.items()))
    metadata = json.loads(data)
    listing = next(iter(metadata["signed"]["targets"].values()))
    listing["custom"]["channel"] = "dev"
    forged = add_metadata(archive, path.with_name("forged.wgb"), {name: json.dumps(metadata).encode()})
    answer = api.publish(forged.path)
    assert answer.status_code == 422
    assert answer.json()["code"] == "TRUST_DIRECTOR_MISMATCH"
    assert api.viewer.get("/api/v1/releases").json()["items"] == []
