"""A real nginx before the server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ways.server import HOST, accepts, free_port, wait_until

DOCS = Path(__file__).parents[4] / "docs" / "nginx"


class Nginx:
    """nginx with one of the examples of docs/nginx, its ports and files replaced and nothing else."""

    def __init__(self, folder: Path, kind: str, replaced: dict[str, str]) -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program, "nginx is needed: apt-get install nginx-light libnginx-mod-stream"
        module = next((path for path in Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so")), None)
        assert module, "nginx's stream module is needed: apt-get install libnginx-mod-stream"
        self.port = free_port()
        text = (DOCS / f"{kind}.conf").read_text()
        for old, new in {"listen 443": f"listen {HOST}:{self.port}", **replaced}.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "example.conf").write_text(text)
        room = "stream" if kind == "stream" else "http"
        temps = "".join(
            f"{one}_temp_path {folder / one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"load_module {module};\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\nworker_processes 1;\n"
            f"events {{ worker_connections 256; }}\n"
            f"{room} {{ {temps + 'access_log off;' if room == 'http' else ''} include {folder / 'example.conf'}; }}\n"
        )
        with (folder / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g", "daemon off;"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

        def listens():
            assert self._process.poll() is None, (folder / "out.log").read_text() + (folder / "error.log").read_text()
            return accepts(self.port)

        wait_until(listens, "nginx listening")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
