"""Private package of agents: their calls, persistence of messages, and running a program.

`miniagents.miniagents` has the public names.
"""
