"""Room 4, the edges: each file brings in one third-party package, imported when it is first used."""
