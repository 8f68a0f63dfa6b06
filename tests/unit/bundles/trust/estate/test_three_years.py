"""Three years without a retrain: nothing is released, everything goes on, and a spare from the shelf still joins.

Every day the server signs what is due; every quarter a device that has never been online is commissioned with the
root of the ceremony and takes the one release there is; whatever the list of expiries names is renewed. In the second
year the signer is down for ten days.
"""

from __future__ import annotations

from bundles.trust.drafting.expiry import expiring
from bundles.trust.drafting.renewal import renew_all_due

DOWN = range(500, 510)
SIGNERS = {
    "root": ("root-1", "root-2"),
    "targets": ("targets-1", "targets-2"),
    "team-vision": ("team-vision",),
    "team-audio": ("team-audio",),
}


def test_three_years(estate):
    commissioned, renewals, alarms = 0, [], {}
    for day in range(3 * 365):
        estate.clock.pass_days(1)
        if day not in DOWN:
            estate.repository.resign()
        due = expiring(estate.repository.expiries(), estate.clock())
        offline = [entry for entry in due if entry.role in SIGNERS]
        for entry in due:
            assert entry.level != "expired"
            if entry.role not in SIGNERS:
                alarms.setdefault(entry.role, []).append(day)
        if any(entry.level == "30d" for entry in offline):  # people take their time: a month after the first notice
            renewal = renew_all_due(estate.state(), estate.clock())
            roles = {name.removesuffix(".json").partition(".")[2] for name in renewal.drafts}
            estate.publish(renewal.drafts, *(key for role in roles for key in SIGNERS[role]))
            renewals.append((day, roles))
        if day % 7 == 0:
            estate.device().refresh(estate.clock())
            estate.device().authorize("vision/m", estate.first, hardware="any", now_ms=estate.clock())
        if day % 91 == 90:
            spare = estate.fresh()
            spare.refresh(estate.clock())
            assert spare.authorize("vision/m", estate.first, hardware="any", now_ms=estate.clock())
            commissioned += 1
    assert commissioned == 12
    assert alarms == {"timestamp": list(range(502, 510))}  # three signatures were missing; nothing else ever was
    roles = [role for _, renewed in renewals for role in renewed]
    assert {role: roles.count(role) for role in SIGNERS} == {"root": 3, "targets": 3, "team-vision": 1, "team-audio": 1}
    assert estate.repository.state.root.version == 4
    estate.accepted(estate.first)
