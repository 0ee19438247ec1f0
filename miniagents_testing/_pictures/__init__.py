"""Pictures of runs: the model of a run, and the page that shows it. `miniagents_testing.pictures` is for users."""
