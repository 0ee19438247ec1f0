"""Agents that answer with a large language model."""
