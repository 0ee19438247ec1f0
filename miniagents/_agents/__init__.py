"""Room 3: agents, their calls, and what runs a program made of them. `miniagents.miniagents` is its door."""
