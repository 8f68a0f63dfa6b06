from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles.errors import TrustRefused
from bundles.trust.device.floors import COPIES, Floors, RoleFloor, load_floors, save_floors
from bundles.trust.durable import read_if_there, write_durably
from bundles.trust.revocation import Denied, Revoked

FLOORS = Floors(roles={"team-vision": RoleFloor(3, "k")}, releases={"v/d": 5}, gen=7, clock_ms=9)


def test_what_is_saved_is_loaded(tmp_path):
    saved = save_floors(tmp_path, FLOORS)
    assert load_floors(tmp_path, cache_exists=True) == saved
    assert save_floors(tmp_path, saved).written == saved.written + 1


def test_new_device_starts_without_floors(tmp_path):
    assert load_floors(tmp_path, cache_exists=False) == Floors()


def test_both_copies_lost_is_refused_where_the_device_had_trust(tmp_path):
    with pytest.raises(TrustRefused) as caught:
        load_floors(tmp_path, cache_exists=True)
    assert caught.value.code == "TRUST_CACHE_CORRUPT"


@pytest.mark.parametrize("stop", [0, 1])
def test_power_cut_between_the_copies_keeps_old_or_new(tmp_path, stop):
    old = save_floors(tmp_path, FLOORS)
    writes = []

    def write(path, data, *, mode=0o644):
        if len(writes) == stop:
            raise KeyboardInterrupt
        writes.append(path)
        write_durably(path, data, mode=mode)

    with pytest.raises(KeyboardInterrupt):
        save_floors(tmp_path, Floors(gen=99), write)
    assert load_floors(tmp_path, cache_exists=True) in (old, Floors(gen=99, written=1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_damage_to_one_copy_leaves_the_other(tmp_path, data):
    saved = save_floors(tmp_path, FLOORS)
    (tmp_path / COPIES[0]).write_bytes(data)
    assert load_floors(tmp_path, cache_exists=True) == saved


def test_changed_number_is_noticed(tmp_path):
    save_floors(tmp_path, FLOORS)
    for name in COPIES:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b'"gen":7', b'"gen":1'))
    with pytest.raises(TrustRefused):
        load_floors(tmp_path, cache_exists=True)


def test_version_floor_binds_under_its_own_keys_only():
    assert FLOORS.version_floor("team-vision", "k") == 3
    assert FLOORS.version_floor("team-vision", "other") == 0
    assert FLOORS.version_floor("team-audio", "k") == 0


def test_release_floor_is_the_higher_of_earned_and_signed():
    floors = Floors(releases={"v/d": 5}, signed={"v/d": 3, "v/e": 2})
    assert [floors.release_floor(model) for model in ("v/d", "v/e", "v/f")] == [5, 2, 0]


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "f"
    write_durably(target, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("bundles.trust.durable.os.fsync", full)
        with pytest.raises(OSError, match="space"):
            write_durably(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert read_if_there(tmp_path) is None
    assert read_if_there(tmp_path / "none") is None


def test_floors_written_by_the_first_release_are_read(tmp_path):
    """0.1.0 knew neither revocations nor kits; what it wrote binds for good."""
    body = (
        '{"clock_keys":"t","clock_ms":9,"gen":7,"gen_keys":"d","gen_sha256":"g","releases":{"v/d":5},'
        '"roles":{"root":{"keys":"","version":2},"team-vision":{"keys":"k","version":3}},"signed":{"v/d":3},"written":4}'
    )
    copy = f'{{"floors":{body},"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}'
    for name in COPIES:
        (tmp_path / name).write_text(copy)
    floors = load_floors(tmp_path, cache_exists=True)
    assert (floors.gen, floors.releases, floors.clock_ms, floors.written) == (7, {"v/d": 5}, 9, 4)
    assert floors.version_floor("team-vision", "k") == 3
    assert (floors.denied, floors.forbidden, floors.server_cas, floors.kit) == ({}, {}, [], 0)


def test_what_is_forbidden_and_pinned_survives_a_restart(tmp_path):
    floors = Floors(
        denied={"a" * 64: Denied(2, "unsafe", 5)},
        denied_keys="r",
        forbidden={"b" * 64: Revoked("worse", 6)},
        server_cas=[b"\x00\xff", b"der"],
        kit=3,
        kit_sha256="k",
        kit_keys="x",
        life_s=60,
    )
    assert save_floors(tmp_path, floors) == load_floors(tmp_path, cache_exists=True)
    assert msgspec.structs.replace(load_floors(tmp_path, cache_exists=True), written=0) == floors
