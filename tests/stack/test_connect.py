"""What people paste into their clients is what the clients take."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console

from smcp.stack import connect
from smcp.stack.config import parse_config
from smcp.stack.screen import Screen

SUMMARY = {
    "api": "http://127.0.0.1:8000",
    "console": "http://127.0.0.1:8001",
    "gateway": "http://127.0.0.1:8080",
    "gateway_admin": "http://127.0.0.1:9090",
    "operator": {"email": "o@example.com", "password": "p", "api_key": "k"},
    "demo": {"server": "starter", "endpoint": "http://127.0.0.1:8080/demo/starter/mcp", "api_key": "smcp_x"},
}


def test_the_settings_it_prints_say_that_the_server_is_reached_by_http(tmp_path: Path) -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, highlight=False, soft_wrap=True))
    connect.welcome(screen, SUMMARY, parse_config({"SMCP_VAR_DIR": str(tmp_path)}), 1.0)
    printed = re.search(r"^\{.*?^\}", out.getvalue(), re.DOTALL | re.MULTILINE)
    assert printed is not None
    assert json.loads(printed[0]) == {
        "mcpServers": {
            "starter": {
                "type": "http",
                "url": "http://127.0.0.1:8080/demo/starter/mcp",
                "headers": {"Authorization": "Bearer smcp_x"},
            }
        }
    }
