"""A server of turnkeep from another program: `TurnkeepClient`, and `SyncTurnkeepClient` where there is
no event loop.
"""

from turnkeep.client.sync_client import SyncTurnkeepClient
from turnkeep.client.turnkeep_client import TurnkeepClient, position_of

__all__ = ["SyncTurnkeepClient", "TurnkeepClient", "position_of"]
