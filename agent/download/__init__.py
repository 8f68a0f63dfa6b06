"""Fetching content-addressed blobs: the way in (``blob``), several sources in turn (``turns``), the price (``meter``).

``chunked`` fetches over the broker; HTTPS is handed in by the runner. ``losses`` sees to it that nothing is fetched in
vain for ever. See each module.
"""

from agent.download.blob import DEFAULT_POLICY, DownloadPolicy, Fetched, fetch_blob
from agent.download.source import Answer, Part, Source

__all__ = ["DEFAULT_POLICY", "Answer", "DownloadPolicy", "Fetched", "Part", "Source", "fetch_blob"]
