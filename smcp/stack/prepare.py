"""`python -m smcp.stack.prepare`: roles, database and tables, then exit. The first thing a container set-up runs.

SMCP_ADMIN_DATABASE_URL   a superuser's login, to any database of the server
DATABASE_URL, SMCP_APP_DATABASE_URL, SMCP_SYSTEM_DATABASE_URL   the three logins to make
"""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import unquote, urlsplit

from smcp.stack.databases import APP, OWNER, SYSTEM, ensure_database
from smcp.stack.environ import DATABASE_VARIABLES
from smcp.stack.errors import NotAllowed, StackError

ROLES = {OWNER: "owner", APP: "app", SYSTEM: "system"}


def prepare() -> None:
    """Raises StackError."""
    passwords = {}
    database = ""
    for role, name in ROLES.items():
        variable = DATABASE_VARIABLES[name]
        parts = urlsplit(os.environ.get(variable, ""))
        if parts.username != role or not parts.password:
            raise NotAllowed(f"{variable} must log in as {role} with a password (see smcp/stack/envfile.py).")
        passwords[role] = unquote(parts.password)
        database = parts.path.strip("/")
    ensure_database(os.environ.get("SMCP_ADMIN_DATABASE_URL", ""), database=database, passwords=passwords)


def main() -> int:
    try:
        prepare()
    except StackError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return subprocess.call((sys.executable, "manage.py", "migrate", "--no-input"))


if __name__ == "__main__":
    sys.exit(main())
