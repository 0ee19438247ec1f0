"""Agents that act: tools, and the tool loop of a model that calls them. `miniagents.tools` has the names for users."""
