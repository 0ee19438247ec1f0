"""Page that shows a run: one HTML file that needs no other file, no network and no server.

The transcript is plain HTML. The script in `page.js` reads texts from it, and times from JSON, and adds lanes and
playing. So each text is in the file once, and a page without JavaScript can be read and printed.

No text acts: it is escaped, its control characters are visible, and the policy of the page runs one script only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING

from miniagents.ext._terminal import visible, visible_line
from miniagents_testing._pictures import LONGEST_PAUSE, overlapping
from miniagents_testing._streams import TICKS_PER_SECOND
from miniagents_testing._words import counted
from miniagents_testing.cassette._file import write

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from miniagents_testing._pictures import Request, Run
    from miniagents_testing._reading import Turn

_MARK = '<meta name="generator" content="miniagents-testing">'
"""Text in the beginning of each page, by which a file is known as a picture."""
_MOST_NAME_CHARS = 80
_LONG_CHARS, _LONG_LINES = 600, 8
"""Size of a prompt from which its beginning is shown until a reader opens it."""
_REPEATED_CHARS = 200
"""Length of a text from which a repetition becomes a link to the text."""
_COLOURS = 8


def page_of(run: Run, title: str) -> str:
    """Return the HTML of a page.

    Args:
        run: what the page shows.
        title: a short text, such as the name of a file.
    """
    style, script = _file("page.css"), _file("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    name = html.escape(_line(title))
    return "".join(
        [
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_MARK}\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{name}</title>\n<style>{style}</style>\n</head>\n<body>\n",
            f'<header>\n<h1>{name}</h1>\n<p class="facts">{facts_of(run)}</p>\n</header>\n',
            _PLAYER,
            "<main>\n<h2>Transcript</h2>\n",
            "<noscript><p>Lanes and playing need JavaScript; the transcript is whole without it.</p></noscript>\n",
            *_transcript(run),
            "" if run.requests else "<p>There is no request.</p>\n",
            "</main>\n",
            f'<script type="application/json" id="run">{_data(run)}</script>\n',
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def write_page(path: str | os.PathLike[str], run: Run, title: str) -> int:
    """Write a page in one step, and return its size in bytes; missing folders are made.

    Raises:
        CassetteFormatError: there is a folder or a device at the path.
        OSError: the file cannot be written.
    """
    page = page_of(run, title).encode()
    write(path, page)
    return len(page)


def is_page(path: Path) -> bool:
    """Return True for a file that `page_of` has made."""
    with path.open("rb") as file:
        return _MARK.encode() in file.read(1000)


_PLAYER = """<section id="player" aria-label="Player" hidden>
<div class="controls">
<button id="play" type="button">Play</button>
<input id="time" type="range" min="0" step="any" aria-label="Time">
<span id="clock"></span>
<label>Speed <select id="speed"><option value="0.5">0.5 x</option><option value="1" selected>1 x</option>\
<option value="2">2 x</option><option value="4">4 x</option><option value="8">8 x</option></select></label>
<label>Zoom <select id="zoom"><option value="1" selected>1 x</option><option value="4">4 x</option>\
<option value="16">16 x</option></select></label>
</div>
<div id="lanes" role="group" aria-label="Requests over time; arrow keys move between them">\
<div id="wide"><div class="over"><div id="head"></div></div></div></div>
</section>
"""


@cache
def _file(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression of a content security policy for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def facts_of(run: Run) -> str:
    """Return the size of a run in words: `9 requests · 5 agents · 58.1 s`."""
    facts = [counted(len(run.requests), "request"), counted(len(run.lanes), "agent")]
    if run.has_times:
        facts.append(_seconds(run.end + sum(pause.length - LONGEST_PAUSE for pause in run.pauses)))
    else:
        facts.append("no times were recorded: each token takes 50 ms here")
    if failed := sum(not request.complete for request in run.requests):
        facts.append(f"{failed:,} failed")
    return " · ".join(facts)


def _seconds(ticks: int) -> str:
    """Return a time as readers know it: `14.8 s`, `2:05 min`, `1:02:05 h`."""
    seconds = ticks / TICKS_PER_SECOND
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 100 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _line(text: str, most: int = _MOST_NAME_CHARS) -> str:
    """Return a text of any origin in one line: white space is one space, and a long text is cut."""
    line = visible_line(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _data(run: Run) -> str:
    """Return what the script of the page needs, as JSON that cannot end the element around it.

    Of each token it has the wait before it, and the length of its text.
    """
    lanes = {name: number for number, name in enumerate(run.lanes)}
    requests = []
    for each in run.requests:
        moments = [each.start, *(token.moment for token in each.tokens)]
        lengths = [0, *(token.length for token in each.tokens)]
        failed = "" if each.complete else _line(each.ending)
        requests.append(
            [each.number, lanes[each.lane], each.start, each.end, failed, _differences(moments), _differences(lengths)]
        )
    tools = [
        [each.request, lanes[each.lane], each.start, each.end, _line(each.failure), _line(each.name)]
        for each in run.tools
    ]
    data = {
        "end": run.end,
        "lanes": [_line(name) or "(no name)" for name in lanes],
        "requests": requests,
        "tools": tools,
        "pauses": [pause.at for pause in run.pauses],
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _differences(numbers: Sequence[int]) -> list[int]:
    """Return each number without the one before it; the first number is left out."""
    return [number - before for before, number in pairwise(numbers)]


def _transcript(run: Run) -> Iterator[str]:
    """Yield the HTML of all requests; those that overlapped in time stand side by side."""
    colours = {name: number % _COLOURS for number, name in enumerate(run.lanes)}
    pauses = list(run.pauses)
    shown: dict[str, int] = {}
    for group in overlapping(run.requests):
        while pauses and pauses[0].at < group[0].start:
            yield f'<p class="pause">a pause of {_seconds(pauses.pop(0).length)}, which takes 1 s here</p>\n'
        yield '<div class="together">\n'
        for request in group:
            yield from _card(request, colours[request.lane], shown)
        yield "</div>\n"


def _card(request: Request, colour: int, shown: dict[str, int]) -> Iterator[str]:
    """Yield the HTML of one request.

    Args:
        request: to show.
        colour: number of its agent's colour.
        shown: texts that the page has already, with the number of their request; those of this request are added.
    """
    prompt = "".join(_prompt(request, shown))
    answer = "".join(part.text for part in request.parts if part.kind == "text")
    _note(shown, answer, request)
    long = " long" if len(prompt) > _LONG_CHARS or prompt.count("\n") > _LONG_LINES else ""
    anchor = f"#r{request.number}"
    facts = [f"{_seconds(request.start)} to {_seconds(request.end)}"]
    if request.tokens_in is not None or request.tokens_out is not None:
        counts = (request.tokens_in, request.tokens_out)
        facts.append(" → ".join("?" if count is None else f"{count:,}" for count in counts) + " tokens")
    target = "" if request.target == request.lane else f" <small>{html.escape(_line(request.target))}</small>"
    yield f'<article class="request c{colour}{long}" id="r{request.number}" tabindex="-1">\n'
    name = html.escape(_line(request.lane) or "(no name)")
    yield f'<h3><a href="{anchor}">{request.number}</a> {name}{target}</h3>\n'
    yield f'<p class="facts">{" · ".join(facts)}</p>\n'
    if prompt:
        yield f'<div class="prompt">{prompt}</div>\n'
    if long:
        yield f'<a class="more" href="{anchor}">Show the whole prompt of request {request.number}</a>\n'
    yield '<div class="answer">'
    yield from (f'<div class="part {part.kind}">{html.escape(part.text, quote=False)}</div>' for part in request.parts)
    ending = html.escape(visible_line(" ".join(request.ending.split())), quote=False)
    mark = "" if request.complete else "✕ "
    yield f'</div>\n<p class="ending{"" if request.complete else " failed"}">{mark}{ending}</p>\n</article>\n'


def _prompt(request: Request, shown: dict[str, int]) -> Iterator[str]:
    """Yield the messages of a prompt; a message that the page has already becomes a link to it."""
    left_out: list[Turn] = []
    for place, turn in enumerate(request.turns):
        if place not in request.new:
            left_out.append(turn)
            continue
        yield from _link_to(left_out, shown)
        left_out.clear()
        yield f'<div class="turn"><b>{html.escape(_line(turn.role))}{_GIVEN.get(turn.role, "")}</b> '
        text = visible(turn.text)
        if len(text) > _REPEATED_CHARS and (earlier := shown.get(text.strip())):
            beginning = html.escape(text[: _REPEATED_CHARS // 2].rpartition(" ")[0], quote=False)
            yield f'{beginning}… <a href="#r{earlier}">whole in request {earlier}</a></div>'
        else:
            yield f"{html.escape(text, quote=False)}</div>"
            _note(shown, text, request)
    yield from _link_to(left_out, shown)


def _note(shown: dict[str, int], text: str, request: Request) -> None:
    """Note that the page has a text in this request, unless the text is empty or in an earlier request."""
    if stripped := text.strip():
        shown.setdefault(stripped, request.number)


_GIVEN = {"assistant": " (given)", "model": " (given)"}
"""Words at messages that the application has written in the model's place."""


def _link_to(left_out: Sequence[Turn], shown: dict[str, int]) -> Iterator[str]:
    """Yield one line for messages that are left out, with a link to the last of them that can be found."""
    if not left_out:
        return
    count = counted(len(left_out), "earlier message")
    texts = (visible(turn.text).strip() for turn in reversed(left_out))
    earlier = next((shown[text] for text in texts if text in shown), None)
    yield '<p class="before">'
    yield f'<a href="#r{earlier}">{count}, up to request {earlier}</a></p>' if earlier else f"{count}</p>"
