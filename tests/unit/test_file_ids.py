"""A file id names a file of the provider's account, which all tenants share: nobody names somebody else's."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tests.rows import each_row
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Principal, Scope
from turnkeep.errors import NotAllowed
from turnkeep.settings import Settings

PARTS: list[dict[str, Any]] = [{"type": "file", "file_id": "file-1"}, {"type": "image", "file_id": "file-1"}]


@each_row("part", PARTS, ids=lambda part: part["type"])
@each_row("scope", get_args(Scope))
@each_row("tenant", ["default", "shop"])
@each_row("is_on", [False, True])
def test_only_who_manages_the_operators_own_tenant_names_files(
    is_on: bool, tenant: str, scope: Scope, part: dict[str, Any]
) -> None:
    limits = Limits(Settings.load(file_ids=is_on))
    principal = Principal(tenant, "somebody", frozenset({scope}), None)

    if is_on or (tenant == "default" and "manage" in principal.rights):
        assert limits.content_of({"content": [part]}, principal)
    else:
        with pytest.raises(NotAllowed, match="an account that all tenants share"):
            limits.content_of({"content": [part]}, principal)
