"""What the model may call: made from functions, built in, declared in a file, or of MCP servers."""

from turnkeep.tools.tool import Spec, Tool, ToolContext, from_dict, tool
from turnkeep.tools.toolbox import Toolbox

__all__ = ["Spec", "Tool", "ToolContext", "Toolbox", "from_dict", "tool"]
