"""A real nginx with a private configuration: one process, on a free port, below a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

from process import Server, clean_environment
from programs import program

CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    log_format moment '$msec';
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        {locations}
    }}
}}
"""


def nginx(home: Path, port: int, *, root: Path, locations: str = "") -> Server:
    """Start one that serves the files below ``root``."""
    configuration, log = home / "nginx.conf", home / "nginx.log"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(user=user, home=home, port=port, root=root, locations=locations))
    command = [program("nginx", "nginx-light"), "-p", str(home), "-e", str(log), "-c", str(configuration)]
    return Server(command, log, clean_environment())
