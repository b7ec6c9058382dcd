"""Fills the database that the environment names (SMCP_DB_ROLE=system) with a platform to look at.

The operator's address is operator@example.com; the password stands in tests/factories.py.
"""

import django


def main() -> None:
    django.setup()

    from smcp.common.tenancy import as_system
    from tests import factories
    from tests.console.world import build_world

    with as_system():
        build_world(factories.make_user("operator@example.com", is_staff=True))


if __name__ == "__main__":
    main()
