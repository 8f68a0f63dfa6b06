"""What expires is told in time, once a level, with the command, and no longer once it is renewed."""

from __future__ import annotations

import json

import pytest
from sqlmodel import select

from bundles.trust.drafting.expiry import Deadline
from bundles.trust.drafting.renewal import renew
from bundles.trust.roles import epoch_ms
from control_plane import metrics
from control_plane.broker.configuration import BrokerFiles
from control_plane.db.tables import Alert, Outbox
from control_plane.deadlines import list_deadline_ms, server_deadlines
from control_plane.identity.authority import Authority
from control_plane.readiness import revocations_check, trust_check
from control_plane.services import alerts
from control_plane.workers.upkeep import Upkeep

DAY_MS = 86_400_000


@pytest.fixture
def upkeep(api) -> Upkeep:
    return Upkeep(api.db, api.trust, 72.0, api.clock.now_ms)


def _alerts(api, name: str = "trust_expiry") -> dict[str, Alert]:
    with api.db.read() as session:
        rows = session.exec(select(Alert).where(Alert.name == name).order_by(Alert.id)).all()
        return {json.loads(row.labels_json)["item"]: row for row in rows}


def _told(api) -> int:
    with api.db.read() as session:
        return len(session.exec(select(Outbox).where(Outbox.kind == "alert.firing")).all())


def _days_before(api, role: str, days: float) -> None:
    api.clock.now = api.repository.expiries()[role] - int(days * DAY_MS)


def test_one_alert_rises_level_by_level_and_names_the_command(api, upkeep):
    upkeep.round()
    assert _alerts(api) == {}
    severities = []
    for days in (59, 29, 6, 0.5, -1):
        _days_before(api, "targets", days)
        upkeep.round()
        alert = _alerts(api)["targets"]
        severities.append(alert.severity)
        assert "wavegate trust renew --role targets" in alert.summary
    assert severities == ["watch", "warning", "critical", "critical", "critical"]
    assert "has expired" in alert.summary
    with api.db.read() as session:
        rows = session.exec(select(Alert).where(Alert.name == "trust_expiry")).all()
    assert len(rows) == 2, "targets and root, one each"
    assert _told(api) == 2 * 5, "each level was told once for each"


def test_looking_again_tells_nothing_new_and_the_next_day_it_is_told_again(api, upkeep):
    _days_before(api, "targets", 20)
    for _ in range(3):
        upkeep.round()
        api.clock.now += 60_000
    assert _told(api) == 2
    assert _alerts(api)["targets"].count == 1
    api.clock.now += DAY_MS
    upkeep.round()
    assert _told(api) == 4


def test_it_resolves_by_itself_once_renewed(api, upkeep):
    _days_before(api, "targets", 5)
    upkeep.round()
    files = api.event(renew(api.repository.state, ["targets"], api.clock.now), "targets")
    api.trust.publish(files)
    api.clock.now += 60_000
    upkeep.round()
    found = _alerts(api)
    assert (found["targets"].state, found["root"].state) == ("resolved", "firing")


def test_an_acknowledged_alert_pages_again_when_it_gets_worse(api, upkeep):
    _days_before(api, "targets", 20)
    upkeep.round()
    alert = _alerts(api)["targets"]
    with api.db.write() as session:
        alerts.acknowledge(session, alert.id, actor="ada", now_ms=api.clock.now)
    _days_before(api, "targets", 6)
    upkeep.round()
    assert _alerts(api)["targets"].state == "firing"


def test_a_signer_that_cannot_write_is_told_after_three_missed_signatures(api, upkeep, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    upkeep.round()
    monkeypatch.setattr("bundles.trust.publishing.repository.write_durably", full)
    for days in (1, 1):
        api.clock.now += days * DAY_MS
        with pytest.raises(OSError, match="No space"):
            upkeep.round()
    assert _alerts(api, "signer_stalled") == {}
    api.clock.now += DAY_MS
    with pytest.raises(OSError, match="No space"):
        upkeep.round()
    alert = _alerts(api, "signer_stalled")["timestamp"]
    assert (alert.severity, alert.state) == ("critical", "firing")
    assert "snapshot" not in _alerts(api), "what the server signs itself is one alert, not three"
    monkeypatch.undo()
    api.clock.now += 60_000
    upkeep.round()
    assert _alerts(api, "signer_stalled")["timestamp"].state == "resolved"


def test_every_expiry_is_a_metric_and_one_that_is_gone_disappears(sqlite_api):
    api, extra = sqlite_api, {"device-ca": Deadline(5_000, "x")}
    upkeep = Upkeep(api.db, api.trust, 72.0, api.clock.now_ms, lambda: extra)
    upkeep.round()
    gauge = metrics.METADATA_EXPIRY
    values = {sample.labels["role"]: sample.value for sample in gauge.collect()[0].samples}
    assert values["device-ca"] == 5.0
    assert values["root"] == epoch_ms(api.repository.state.root.expires) / 1000
    assert {"targets", "snapshot", "timestamp", "revocation", "team-vision", "team-audio"} <= values.keys()
    extra.clear()
    upkeep.round()
    assert "device-ca" not in {sample.labels["role"] for sample in gauge.collect()[0].samples}


def test_certificates_and_an_overdue_revocation_list_expire_too(sqlite_api, tmp_path):
    now_ms, keys = sqlite_api.clock.now, tmp_path / "ca"
    server, device = (Authority.open_or_create(keys, name, now_ms) for name in ("server-ca", "device-ca"))
    issued = server.issue_server("wavegate", ["localhost"], now_ms)
    broker = BrokerFiles(tmp_path / "broker")
    broker.folder.mkdir()
    for path in (keys / "server.pem", broker.certificate):
        path.write_bytes(issued.certificate_pem)
    broker.crl.write_bytes(device.revocation_list([], now_ms))
    found = server_deadlines(keys, broker, now_ms)
    assert found.keys() == {"server-ca", "device-ca", "server-certificate", "broker-certificate"}
    assert found["broker-certificate"].expires_ms == issued.expires_ms // 1000 * 1000
    assert "revocation-list" in server_deadlines(keys, broker, now_ms + 4 * DAY_MS)
    assert server_deadlines(keys, None, now_ms).keys() == {"server-ca", "device-ca", "server-certificate"}
    (keys / "server.pem").unlink()
    assert "server-certificate" not in server_deadlines(keys, None, now_ms)


def test_an_expired_revocation_list_is_not_ready_and_expired_metadata_is_told(sqlite_api, tmp_path):
    now_ms, path = sqlite_api.clock.now, tmp_path / "revoked.crl"
    assert not revocations_check(path, now_ms).ok, "no list: the broker refuses everybody"
    path.write_bytes(Authority.open_or_create(tmp_path / "ca", "device-ca", now_ms).revocation_list([], now_ms))
    expires_ms = list_deadline_ms(path)
    assert expires_ms is not None
    assert revocations_check(path, expires_ms - 1).ok
    assert not revocations_check(path, expires_ms).ok
    assert revocations_check(None, now_ms).ok
    assert trust_check(sqlite_api.trust, now_ms).detail == "version 1"
    late = trust_check(sqlite_api.trust, now_ms + 400 * DAY_MS)
    assert late.ok, "devices report through this server whatever has expired"
    assert "targets has expired" in late.detail
