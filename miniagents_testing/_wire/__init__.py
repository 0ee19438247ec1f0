"""Wire formats of the providers: they turn a step of a script into the bytes of a response.

`chat`, `responses` and `messages` have the format of one API each. `rendering` adds times and ends, `dialects` the
variants that other servers send. Independent of transports.
"""

from miniagents_testing._wire.rendering import FORMATS, render

__all__ = ["FORMATS", "render"]
