"""Whose workspace is where: one directory for the default tenant, one for each other.

A tool asks with the tenant of its call, so that no call reaches the files of somebody else, whoever
registered the tool and whatever an assistant enables. A tenant that was given no place has none.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from turnkeep.errors import ConfigurationError, ToolDenied
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.tools.quota import BYTES, FREE_BYTES, DiskQuota
from turnkeep.tools.workspace import Workspace

MOST_REMEMBERED = 1000
LONGEST_NAME = 100


class Workspaces:
    """The workspaces of a process.

    `tenants` is the directory beneath which other tenants have theirs.

    `quota` is what each may hold, `free` what stays free on its disk, in bytes.
    """

    def __init__(self, root: Path, tenants: Path | None = None, *, quota: int = BYTES, free: int = FREE_BYTES) -> None:
        self._quota, self._free = quota, free
        self._by_tenant = {DEFAULT_TENANT: self._workspace(root)}
        self._tenants = None if tenants is None else self._workspace(tenants).root
        if self._tenants is not None:
            _demand_apart(self._by_tenant[DEFAULT_TENANT].root, self._tenants)

    def of(self, tenant: str) -> Workspace:
        """The workspace of a tenant, made at its first use.

        Blocking. Raises `ToolDenied` if it has none.
        """
        if (workspace := self._by_tenant.get(tenant)) is not None:
            return workspace
        if self._tenants is None:
            raise ToolDenied("this tenant has no workspace")
        # all at once: a workspace costs little to make again, and tenants from tokens are without
        # number
        if len(self._by_tenant) >= MOST_REMEMBERED:
            self._by_tenant = {DEFAULT_TENANT: self._by_tenant[DEFAULT_TENANT]}
        workspace = self._by_tenant[tenant] = self._workspace(_make_folder(self._tenants / folder_name(tenant)))
        return workspace

    def _workspace(self, root: Path) -> Workspace:
        return Workspace(root, DiskQuota(root, self._quota, self._free))


def folder_name(tenant: str) -> str:
    """A name of its own for each tenant: no separators, dots or case; long ones end in a digest."""
    # capitals too: on a file system without case two tenants would meet in one folder
    plain = re.sub(r"[^a-z0-9_-]", lambda match: "".join(f"%{byte:02x}" for byte in _bytes(match[0])), tenant)
    if len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[:LONGEST_NAME]}%%{hashlib.sha256(_bytes(tenant)).hexdigest()[:32]}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _make_folder(folder: Path) -> Path:
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    # a link would put this tenant into another's directory
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise ToolDenied("the workspace of this tenant is no directory")
    return folder


def _demand_apart(one: Path, other: Path) -> None:
    if one == other or one in other.parents or other in one.parents:
        raise ConfigurationError(
            f"TURNKEEP_WORKSPACE {str(one)!r} and TURNKEEP_TENANT_WORKSPACES {str(other)!r} lie within each other:"
            " tenants would meet; give two directories side by side"
        )
