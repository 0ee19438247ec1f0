"""Recorded provider streams, chunk for chunk: what was sent, when, and how it ended.

`ReplayTransport` plays a cassette under a real SDK, `RecordingTransport` makes one while tokens keep flowing. The file
is a plain vcrpy cassette with one key more.
"""

from __future__ import annotations

from miniagents_testing.cassette.file import load, save
from miniagents_testing.cassette.interaction import Interaction
from miniagents_testing.cassette.recording import RecordingTransport
from miniagents_testing.cassette.replay import ReplayTransport
from miniagents_testing.streams import Chunk, ResponseStream

__all__ = ["Chunk", "Interaction", "RecordingTransport", "ReplayTransport", "ResponseStream", "load", "save"]
