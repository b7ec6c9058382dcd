"""The audit trail as people read it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.utils.html import strip_tags
from playwright.sync_api import expect

from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from smcp.console.lists.audit import details
from smcp.console.pages.people import describe
from tenants.models import User
from tenants.operations import create_operator_key
from tests.console.conftest import Visitor
from tests.console.world import World

ID = "01k9zz2m4n6p8q0r2s4t6v8w0y"


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ({"reason": "unpaid"}, "reason: unpaid"),
        ({"environment": None, "server": ID}, "server: …6v8w0y"),
        ({"scopes": ["api:read", "api:write"]}, "scopes: api:read, api:write"),
        (
            {"before": {"access": ["api_key"], "egress_allow": []}, "after": {"access": [], "egress_allow": ["a:1"]}},
            "access: api_key → none egress allow: none → a:1",
        ),
        (
            {"releases": [{"id": ID, "is_new": True, "percentage": "90", "migrations": None}, {"id": ID, "is_new": False}]},
            "releases: …6v8w0y, new, 90 %; …6v8w0y, not new",
        ),
        ({"after": "noon"}, "after: noon"),
        ({}, "—"),
    ],
)  # fmt: skip
def test_details_read_as_names_and_values(detail: dict[str, Any], words: str) -> None:
    text = strip_tags(details(detail).replace("</span><span", "</span> <span"))
    text = text.replace("\N{WORD JOINER}", "").replace("\N{NO-BREAK SPACE}", " ")
    assert re.sub("…[0-9a-z]{2}", "…", text) == words


def test_details_keep_the_whole_id_for_whoever_points_at_it() -> None:
    assert f'title="{ID}"' in details({"server": ID})


@pytest.mark.browser
def test_no_detail_is_written_as_python(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/common/auditevent/?q={world.tenant.slug}")
    cells = page.locator("#result_list .field-what")
    expect(cells.first).to_contain_text("→")
    for text in cells.all_inner_texts():
        assert not re.search(r"[{}\[\]']|None|True|False", text), text


def test_a_key_is_named_with_whose_it_is(operator: User) -> None:
    with as_system():
        row, _ = create_operator_key(name="ci")
        names = describe([f"operator:{row.id}", f"user:{operator.id}", f"key:{new_id()}"])
    assert names[f"operator:{row.id}"] == "An operator, with the key “ci”"
    assert names[f"user:{operator.id}"] == operator.email
