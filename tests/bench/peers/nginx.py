"""nginx, passing through: no routes but one, nothing read of what it carries."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.bench.peers import Peer, spawn, wait_until_it_answers
from tests.bench.peers.words import call, requests
from tests.nginx import find_nginx
from tests.parts import free_port

CONFIG = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    upstream stub {{ server {stub}; keepalive 512; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://stub;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def start(stack: ExitStack, directory: Path, upstream: str) -> Peer:
    """Raises RuntimeError where there is no nginx."""
    program = find_nginx()
    if program is None:
        raise RuntimeError("there is no nginx on this machine: apt-get install nginx-light")
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(CONFIG.format(directory=directory, port=port, stub=upstream.removeprefix("http://")))
    pid = spawn(stack, directory, "nginx", [program, "-p", str(directory), "-c", str(config)])
    wait_until_it_answers(f"http://127.0.0.1:{port}/mcp", *call("legacy", "json"))
    return Peer("nginx", pid, port, requests("/mcp", "legacy", "modern"))
