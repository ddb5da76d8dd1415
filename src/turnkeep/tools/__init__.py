"""What the model may call: tools made from functions, built in, declared in a file, or served by
MCP servers.
"""

from turnkeep.tools.tool import Spec, Tool, ToolContext, from_dict, tool
from turnkeep.tools.toolbox import Toolbox

__all__ = ["Spec", "Tool", "ToolContext", "Toolbox", "from_dict", "tool"]
