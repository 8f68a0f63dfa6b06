"""Days of a flapping link in virtual time: what a device counted is what the control plane has, less what it declared.

Real: the link, the spool in its SQLite file, the schedule, ingest and its SQLite database. In between a network that
loses, doubles, delays and reorders messages and acks, and changes between a broker, HTTPS alone and nothing at all;
the agent is killed and started again, the server too, and a device's wall clock may jump by years. Everything is drawn
from one seed, which is printed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import select

from agent.runner.link import Hooks, Link
from agent.runner.schedule import Schedule
from agent.spool import Spool
from bundles.errors import TryAgain
from bundles.sketch.form import ColumnCounts, LatencyHistogram, Window
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, Event, Telemetry, UpEnvelope
from control_plane.db.engine import Database
from control_plane.db.tables import Device, DeviceEvent, DeviceWindow, RawMessage, SketchRollup
from control_plane.services import reports, sequence
from control_plane.services.reports import Inbound

SEED = 20261124
START_MS = 1_800_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
BUCKET_MS = 15 * MINUTE
YEAR = 365 * 24 * HOUR
WRONG_MS = (-START_MS, -57 * YEAR, -HOUR, -11 * MINUTE, 11 * MINUTE, HOUR, 10 * YEAR)
"""What a wall clock may be off by: 1970, set back, set forward, ten years ahead."""


class VirtualSchedule(Schedule):
    """The agent's own line, in a world where time is moved by hand and background work takes none."""

    def background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        try:
            result = work()
        except TryAgain as error:
            result = error
        self.soon(lambda: done(result))


class World:
    """Clock, network and server."""

    def __init__(self, folder: Path, seed: int, *, clocks_jump: bool) -> None:
        self.folder, self.chance, self.now_ms, self.clocks_jump = folder, random.Random(seed), START_MS, clocks_jump
        self.schedule = VirtualSchedule(lambda: self.now_ms, workers=0)
        self.way = "mqtt"
        self.devices: dict[str, Agent] = {}
        self.queue: list[Inbound] = []
        self.seen: Counter[str] = Counter()
        self.db = Database(f"sqlite:///{folder / 'server.db'}")
        self.db.upgrade()
        self.schedule.at("change", self.now_ms, self.change)
        self.schedule.at("serve", self.now_ms, self.serve)

    def change(self) -> None:
        """The network becomes another."""
        self.way = self.chance.choice(["mqtt", "mqtt", "https", "offline"])
        self.seen[self.way] += 1
        lasting = self.chance.expovariate(1 / (6 * MINUTE)) if self.way != "offline" else self.chance.uniform(1, HOUR)
        self.schedule.at("change", self.now_ms + int(lasting) + 1, self.change)
        for agent in self.devices.values():
            agent.broker.network(self.way == "mqtt")

    def ingest(self, batch: list[Inbound]) -> dict[str, Ack]:
        with self.db.write() as session:
            outcome = reports.ingest(
                session, batch, bucket_ms=BUCKET_MS, observe_reported=lambda *_: None, now_ms=self.now_ms
            )
        assert outcome.unreadable == 0
        self.seen["repeated"] += outcome.repeated
        return outcome.acks

    def serve(self) -> None:
        """Take in what the broker brought, and acknowledge."""
        self.schedule.at("serve", self.now_ms + 10_000, self.serve)
        batch, self.queue = self.queue, []
        if not batch:
            return
        for device, ack in self.ingest(batch).items():
            if self.chance.random() < 0.25:
                self.seen["ack lost"] += 1
                continue
            self.later(30_000, lambda device=device, ack=ack: self.devices[device].broker.bring_ack(ack))

    def arrives(self, inbound: Inbound) -> None:
        """A publish on its way: lost, late, out of order, twice."""
        if self.chance.random() < 0.2:
            self.seen["publish lost"] += 1
            return
        for _ in range(2 if self.chance.random() < 0.1 else 1):
            self.later(45_000, lambda: self.queue.append(inbound))

    def later(self, most_ms: int, call: Callable[[], None]) -> None:
        self.schedule.at(object(), self.now_ms + self.chance.randrange(1, most_ms), call)

    def restart_server(self) -> None:
        """Killed: what it had not committed is gone, and nobody was told otherwise."""
        self.seen["server restarts"] += 1
        self.queue = []
        self.db.close()
        self.db = Database(f"sqlite:///{self.folder / 'server.db'}")

    def run(self, until_ms: int) -> None:
        while True:
            due_ms = self.schedule.run_due()
            if due_ms is None or due_ms > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = due_ms


class Broker:
    """A device's connection to the broker (a ``Transport``), as far as the network lets it."""

    def __init__(self, world: World, device: str) -> None:
        self.world, self.device, self.connected = world, device, False
        self.link: Link | None = None

    def connect(self, way: str = "mqtt") -> None:
        if self.world.way != "mqtt":
            raise TryAgain("No way to the broker.", code="BROKER_UNREACHABLE", remedy="Wait.")
        self.connected = True
        assert self.link is not None
        self.link.on_state(True, "")

    def network(self, is_there: bool) -> None:
        if self.connected and not is_there:
            self.connected = False
            assert self.link is not None
            self.link.on_state(False, "the network is gone")

    def publish(self, leaf: str, payload: bytes, qos: int = 1) -> bool:
        if self.connected and leaf in (topics.UP_EVENT, topics.UP_TELEMETRY):
            self.world.arrives(Inbound(self.device, leaf, payload))
        return self.connected

    def takes(self, leaf: str, payload: bytes) -> bool:
        return True

    def look(self, way: str) -> None:
        """No way is better than the one in use."""

    def bring_ack(self, ack: Ack) -> None:
        if self.connected and self.link is not None:
            self.link.on_down(topics.DOWN_ACK, codec.encode(ack))

    def close(self, farewell: bytes | None = None) -> None:
        self.connected = False


class Agent:
    """One device: its spool and link, a report a minute, killed now and then; also the server's HTTPS door."""

    def __init__(self, world: World, device: str, *, max_bytes: int, is_bulky: bool) -> None:
        self.world, self.device, self.max_bytes, self.is_bulky = world, device, max_bytes, is_bulky
        self.samples = self.windows = self.events = self.starts = self.wrong_ms = 0
        self.chance = random.Random(f"{world.chance.random()}/{device}")
        with world.db.write() as session:
            session.add(Device(id=device, public_key_pem=device, enrolled_ms=START_MS))
        world.devices[device] = self
        self.start()
        world.schedule.at((device, "report"), world.now_ms + MINUTE, self.report)

    def start(self) -> None:
        self.starts += 1
        world, key = self.world, f"{self.device}/{self.starts}"
        self.spool = Spool(world.folder / f"{self.device}.db", self.device, max_bytes=self.max_bytes)
        self.broker = Broker(world, self.device)
        hooks = Hooks(lambda _: None, lambda: None, lambda: None, lambda: b"{}")
        self.link = Link(world.schedule, key, self, self.broker, self.spool, hooks, self.chance, self.wall_ms, 1800.0)
        self.broker.link = self.link
        self.link.start()

    def wall_ms(self) -> int:
        return max(0, self.world.now_ms + self.wrong_ms)

    def jump(self) -> None:
        """Somebody sets the clock, the battery is empty, or a time server mends it."""
        self.wrong_ms = 0 if self.wrong_ms and self.chance.random() < 0.5 else self.chance.choice(WRONG_MS)
        self.world.seen["clock jumps"] += 1

    def kill(self) -> None:
        """As -9 does: nothing is sent, nothing cut; only what was durable is left."""
        self.broker.connected = False
        self.link.close(b"")
        self.spool.close()
        self.start()

    def report(self) -> None:
        self.world.schedule.at((self.device, "report"), self.world.now_ms + MINUTE, self.report)
        if self.world.clocks_jump and self.chance.random() < 1 / 40:
            self.jump()
        ok, now = self.chance.randrange(1, 40), self.wall_ms()
        columns = {"sharpness": ColumnCounts(counts=[ok, 0], n=ok, sum_q=self.chance.randrange(-ok, ok))}
        classes = [self.chance.randrange(2**16) for _ in range(1500)] if self.is_bulky else []
        variant = f"v{self.windows % 20}" if self.is_bulky else "v"  # few that merge
        latency = LatencyHistogram(offset=self.chance.randrange(300), counts=[ok], n=ok, sum_us=ok * 90)
        self.spool.add_window(
            Window(
                "t/m",
                "b" * 64,
                "1",
                variant,
                "c" * 64,
                max(0, now - MINUTE),
                now,
                ok,
                {},
                {},
                classes,
                latency,
                columns,
            )
        )
        self.windows, self.samples = self.windows + 1, self.samples + ok
        if self.chance.random() < 0.05:
            self.spool.add_event("phase", at_ms=now, data={"n": self.events})
            self.events += 1
        if self.chance.random() < 1 / 180:
            self.kill()

    def desired(self, etag: str = "") -> None:
        if self.world.way == "offline":
            raise TryAgain("No network.", code="SERVER_UNREACHABLE", remedy="Wait.")

    def reports(self, batch: list[UpEnvelope]) -> Ack:
        world = self.world
        if world.way == "offline" or self.chance.random() < 0.15:
            raise TryAgain("The request did not arrive.", code="SERVER_UNREACHABLE", remedy="Wait.")
        sent = [Inbound(self.device, item.leaf, item.payload) for item in batch if item.leaf != topics.UP_REPORTED]
        acks = world.ingest(sent)
        if self.chance.random() < 0.15:
            world.seen["answer lost"] += 1
            raise TryAgain("The answer did not arrive.", code="SERVER_UNREACHABLE", remedy="Wait.")
        return acks.get(self.device, Ack("", 0))


def rollups(db: Database) -> list[dict[str, Any]]:
    with db.read() as session:
        counters = session.exec(select(DeviceWindow).order_by(DeviceWindow.device, DeviceWindow.bucket_ms)).all()
        sketches = session.exec(select(SketchRollup).order_by(SketchRollup.bucket_ms)).all()
    return [row.model_dump() for row in [*counters, *sketches]]


def simulate(
    folder: Path, seed: int, *, hours: int, devices: int, max_bytes: int, is_bulky: bool, clocks_jump: bool = False
) -> World:
    print(f"seed {seed}, {devices} devices, {hours} simulated hours")
    world = World(folder, seed, clocks_jump=clocks_jump)
    for number in range(devices):
        Agent(world, f"cam-{number}", max_bytes=max_bytes, is_bulky=is_bulky)
    world.schedule.at("restart", START_MS + hours * HOUR // 2, world.restart_server)
    world.run(START_MS + hours * HOUR)
    for agent in world.devices.values():
        world.schedule.cancel((agent.device, "report"))
    world.run(world.now_ms + 12 * HOUR)  # the link goes on flapping; what waits must get through all the same
    assert world.schedule.failures == 0
    print("dropped:", {a.device: a.spool.status().dropped for a in world.devices.values()})
    print("met:", dict(world.seen), "starts:", sum(agent.starts for agent in world.devices.values()))
    return world


def check(world: World) -> Counter[str]:
    """The exact oracle of the design, from the server's side; returns what was found."""
    found: Counter[str] = Counter()
    everything: list[Inbound] = []
    with world.db.read() as session:
        for agent in world.devices.values():
            rows = session.exec(select(RawMessage).where(RawMessage.device == agent.device)).all()
            counters = session.exec(select(DeviceWindow).where(DeviceWindow.device == agent.device)).all()
            events = session.exec(select(DeviceEvent).where(DeviceEvent.device == agent.device)).all()
            merged = sum(row.ok for row in counters)
            stored = [codec.decode_up(row.leaf, row.payload) for row in rows if row.leaf != sequence.DROPPED_LEAF]
            windows = [message for message in stored if isinstance(message, Telemetry)]
            told = [m for m in stored if isinstance(m, Event) and m.kind == "spool_dropped"]
            tombstones = [
                msgspec.json.decode(row.payload)["samples"] for row in rows if row.leaf == sequence.DROPPED_LEAF
            ]
            declared = sum(tombstones) + sum(event.data["samples"] for event in told)
            assert agent.spool.status().pending == 0
            assert {row.boot_epoch for row in rows} == {agent.spool.boot_epoch}
            assert sorted(row.seq for row in rows) == list(range(1, len(rows) + 1)), "every number, once"
            assert merged == sum(message.window.ok for message in windows), "roll-ups are the raw rows"
            assert merged == agent.samples - declared, "reports sent == reports merged, less what was declared"
            phases = [message.data["n"] for message in stored if isinstance(message, Event) and message.kind == "phase"]
            assert sorted(phases) == list(range(agent.events))
            assert len(events) == len(phases) + len(told)
            found.update(windows=len(windows), generated=agent.windows, declared=declared, samples=agent.samples)
            everything += [
                Inbound(row.device, row.leaf, row.payload) for row in rows if row.leaf != sequence.DROPPED_LEAF
            ]
        sketched = sum(row.windows for row in session.exec(select(SketchRollup)).all())
    assert sketched == found["windows"]
    before = rollups(world.db)
    for _ in range(2):  # the whole spool replayed, twice
        world.chance.shuffle(everything)
        for start in range(0, len(everything), 500):
            world.ingest(everything[start : start + 500])
    assert rollups(world.db) == before, "bit-identical"
    world.db.close()
    return found


def test_a_day_of_a_flapping_link_loses_no_report_and_counts_none_twice(tmp_path):
    world = simulate(tmp_path, SEED, hours=24, devices=1, max_bytes=8 << 20, is_bulky=False)
    found = check(world)
    assert (found["generated"], found["windows"], found["declared"]) == (1440, 1440, 0)
    for trouble in ("mqtt", "https", "offline", "publish lost", "ack lost", "answer lost", "repeated"):
        assert world.seen[trouble], f"the day had no {trouble!r}, so it showed nothing of it"
    assert world.seen["server restarts"] == 1
    assert world.devices["cam-0"].starts > 1


def test_a_wall_clock_that_jumps_by_years_loses_nothing_and_counts_nothing_twice_or_in_another_year(tmp_path):
    world = simulate(tmp_path, SEED + 3, hours=12, devices=1, max_bytes=8 << 20, is_bulky=False, clocks_jump=True)
    with world.db.read() as session:
        buckets = [row.bucket_ms for row in session.exec(select(DeviceWindow)).all()]
    found = check(world)
    assert world.seen["clock jumps"] > 10
    assert (found["generated"], found["windows"], found["declared"]) == (720, 720, 0)
    # An hour off is believed where the report says so with its own clock at the first send; years are not.
    assert min(buckets) > START_MS - 2 * HOUR, "nothing is filed under 1970"
    assert max(buckets) <= world.now_ms, "or under a year to come"


def test_a_spool_too_small_for_the_outages_merges_and_declares_to_the_last_request(tmp_path):
    world = simulate(tmp_path, SEED + 1, hours=4, devices=1, max_bytes=72 << 10, is_bulky=True)
    found = check(world)
    assert found["windows"] < found["generated"] == 240
    assert found["declared"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_week_of_several_devices(tmp_path, record_property):
    seed = SEED + 2
    record_property("seeds", f"{seed}")
    world = simulate(tmp_path, seed, hours=7 * 24, devices=3, max_bytes=256 << 10, is_bulky=False)
    found = check(world)
    starts = sum(agent.starts for agent in world.devices.values())
    record_property("figures", f"{dict(found)}, met {dict(world.seen)}, agents started {starts} times")
    assert found["generated"] == 3 * 7 * 1440
