"""Promises, sequences and histories behave like plain models of them under operations in any order."""

from __future__ import annotations

from hypothesis import settings
from state_machines import history_machine, promise_machine, sequence_machine

from miniagents import InMemoryChatHistory
from miniagents.ext.chat_history_md import ChatHistoryMD

# one run of a machine tries as much as twenty examples of a property
RUNS = settings(max_examples=settings().max_examples // 10, stateful_step_count=20)

TestPromises = promise_machine().TestCase
TestPromises.settings = RUNS

TestSequences = sequence_machine().TestCase
TestSequences.settings = RUNS

TestInMemoryHistories = history_machine(lambda folder: InMemoryChatHistory(), reopens=False).TestCase
TestInMemoryHistories.settings = RUNS

TestMarkdownHistories = history_machine(lambda folder: ChatHistoryMD(folder / "chat.md")).TestCase
TestMarkdownHistories.settings = RUNS
