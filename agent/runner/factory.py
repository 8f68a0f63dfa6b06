"""Puts a factory bundle into an agent's folder: the release that answers where nothing else on the device is sound.

Only a bundle that this device may run becomes one: its digest stands in the owner's settings (``factory``), or trust
allows it as it would allow any release, pins and floors included. Works on a folder whose agent does not run. Leaves
the disk to the store, and when the bundle answers to the updater's core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.config import AgentConfig, Folders, dump_config, load_config
from agent.core.state import Release
from agent.https import DeviceDoor, open_client
from agent.identity import load_identity, write_durably
from agent.proxy import read_proxies
from agent.runner.assurance import Assurance
from agent.runner.credentials import Credentials, read_extra_ca
from agent.runner.schedule import SteadyClock
from agent.runner.wiring import lock_folder, read_bootstrap_root
from agent.store import LocalFileSystem, Store
from bundles.archive import Archive, open_archive
from bundles.digest import CHUNK_BYTES
from bundles.errors import AskPerson
from bundles.manifest import BundleFile, Manifest
from bundles.trust.device.authorize import check_manifest
from bundles.trust.device.client import TrustStore


def install_factory(folder: Path, file: Path) -> Release:
    """Install the bundle in ``file`` as the factory release of its model; durable on return.

    Its digest is added to the settings where trust allowed it, so that on-call revocation does not reach it.

    Args:
        folder: of an enrolled agent that does not run.
        file: ``.wgb``.

    Raises:
        AskPerson: ``AGENT_RUNNING``, ``FILE_MISSING``, ``IDENTITY_MISSING``, ``ROOT_MISSING``, ``CONFIG_INVALID``,
            ``PROXY_INVALID``, ``EXTRA_CA``.
        BundleRefused: the file is no whole bundle.
        TrustRefused: trust does not allow it here, and the settings do not name it.
        TryAgain: the server cannot be reached to ask trust; ``DISK_FULL``, ``STORE_IO``.
    """
    folders = Folders(folder)
    config = load_config(folders.config)
    archive = _open(file)
    archive.verify()
    lock = lock_folder(folders.lock)
    try:
        if archive.sha256 not in config.factory:
            _check_allowed(folders, config, archive)
            config = replace(config, factory=(*config.factory, archive.sha256))
            write_durably(folders.config, dump_config(config).encode())
        store = Store(LocalFileSystem(folder), config.reserve_mib * 1024 * 1024)
        store.open()
        files = fitting_files(archive.manifest, config.hardware)
        return store.place_factory(archive.manifest_bytes, files, lambda entry: _pieces(archive, entry))
    finally:
        os.close(lock)


def fitting_files(manifest: Manifest, hardware: str) -> tuple[BundleFile, ...]:
    """Return the files that a device of this hardware may need, whichever of its runtimes work one day."""
    models = {v.file for v in manifest.variants if not v.hardware or hardware in v.hardware}
    return tuple(entry for entry in manifest.files if entry.role != "model" or entry.path in models)


def _check_allowed(folders: Folders, config: AgentConfig, archive: Archive) -> None:
    identity = load_identity(folders.identity)
    clock, url = SteadyClock(), identity.enrolment.url
    credentials = Credentials(identity, extra=read_extra_ca(config.extra_ca))
    proxies = read_proxies(config.proxy, config.no_proxy, os.environ)
    with open_client(url, credentials.server_context(), proxy=proxies.to_url(url)) as client:
        door = DeviceDoor(client, identity.device, credentials.key)
        trust = TrustStore(
            folders.trust,
            read_bootstrap_root(folders.bootstrap_root),
            device=identity.device,
            fetch=door.metadata,
            pin=config.channel,
            allow_demo=config.allow_demo_keys,
        )
        assurance = Assurance(trust, clock.wall_ms, clock.now_ms)
        try:
            manifest = archive.manifest
            release = Release(
                manifest.target_path, archive.sha256, len(archive.manifest_bytes), manifest.release_counter
            )
            check_manifest(assurance.authorize(release, config.hardware), archive.manifest_bytes)
        finally:
            assurance.close()


def _pieces(archive: Archive, entry: BundleFile) -> Iterator[bytes]:
    with archive.open_file(entry) as stream:
        while piece := stream.read(CHUNK_BYTES):
            yield piece


def _open(file: Path) -> Archive:
    try:
        return open_archive(file)
    except OSError as error:
        raise AskPerson(
            f"The bundle {str(file)!r} cannot be read: {error.strerror or error}.",
            code="FILE_MISSING",
            remedy="Give the .wgb that the publisher signed.",
        ) from error
