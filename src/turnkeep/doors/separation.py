"""Whether tools may be served as they are: nobody finds out by accident that tenants share them."""

from __future__ import annotations

from turnkeep.application import Application
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.errors import ConfigurationError
from turnkeep.messages import DEFAULT_TENANT


async def demand_separation(application: Application) -> None:
    """Where there are tools and credentials of several tenants, somebody has said who may use
    which.

    Raises `ConfigurationError`. Unsaid means none for others than the default tenant, which would
    surprise whoever turned the tools on; that they share them would surprise the tenants.
    """
    if application.settings.tenant_tools is not None or not (
        len(application.toolbox) or application.settings.tools_file
    ):
        return
    if (others := await _others(application)) is not None:
        raise ConfigurationError(
            f"tools are on, and {others}, but nothing says which of them other tenants may use: set"
            ' TURNKEEP_TENANT_TOOLS, such as {"shop": ["get_weather"]}, or {} for none'
        )


async def _others(application: Application) -> str | None:
    """Which credentials of other tenants there are, in words; None if there are none."""
    if application.settings.takes_tokens:
        return "tokens may name any tenant"
    now = application.clock.now()
    tenants = sorted(
        {key.tenant for key in await ApiKeys(application.store).list() if key.is_valid(now)} - {DEFAULT_TENANT}
    )
    return f"there are keys of tenant {', '.join(tenants)[:200]}" if tenants else None
